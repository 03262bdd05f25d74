use std::fmt::{Debug, Display};

use crate::error::{Error, Kind, Result};

/// The rule that a piece of a suite is about. Its name is in every panic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule(pub(super) &'static str);

impl Rule {
    /// The rule of a function, by its path.
    pub(super) fn of(path: &'static str) -> Self {
        Self(path.rsplit_once("::").map_or(path, |(_, name)| name))
    }

    /// The rule holds, or the suite ends here.
    #[track_caller]
    pub(super) fn holds(self, holds: bool, otherwise: impl Display) {
        assert!(holds, "the rule {} is broken: {otherwise}", self.0);
    }

    /// Two things are the same, or the suite ends here.
    #[track_caller]
    pub(super) fn same<T: PartialEq + Debug>(self, what: &str, found: T, wanted: T) {
        assert!(found == wanted, "the rule {} is broken: {what} is {found:?}, not {wanted:?}", self.0);
    }

    /// A call passes, or the suite ends here.
    #[track_caller]
    pub(super) fn ok<T>(self, what: &str, result: Result<T>) -> T {
        match result {
            Ok(value) => value,
            Err(error) => panic!("the rule {} is broken: {what} fails: {error:?}", self.0),
        }
    }

    /// There is something, or the suite ends here.
    #[track_caller]
    pub(super) fn some<T>(self, what: &str, value: Option<T>) -> T {
        match value {
            Some(value) => value,
            None => panic!("the rule {} is broken: {what}", self.0),
        }
    }

    /// A call fails with an error of a kind, or the suite ends here.
    #[track_caller]
    pub(super) fn fails<T: Debug>(self, what: &str, kind: Kind, result: Result<T>) -> Error {
        match result {
            Ok(value) => panic!("the rule {} is broken: {what} passes with {value:?}", self.0),
            Err(error) if error.kind() == kind => error,
            Err(error) => panic!("the rule {} is broken: {what} fails with another kind: {error:?}", self.0),
        }
    }
}

/// Runs functions that are named after the rule they try, in order.
macro_rules! try_rules {
    ($factory:expr; $($rule:path),+ $(,)?) => {
        $($rule($crate::testkit::rule::Rule::of(stringify!($rule)), $factory).await;)+
    };
}

pub(super) use try_rules;
