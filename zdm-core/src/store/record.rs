use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// The domain value that both stores of a migration return. Every type that can be cloned, compared,
/// printed and serialised is one.
pub trait Record: Clone + PartialEq + fmt::Debug + Serialize + Send + Sync + 'static {
    /// Whether two records are the same. Beyond `==`, a float that is not a number equals itself.
    fn same_as(&self, other: &Self) -> bool {
        // A NaN prints as NaN; every other difference of values shows in the print.
        self == other || format!("{self:?}") == format!("{other:?}")
    }

    /// The fields in which two records differ, by path. Empty when they are the same.
    fn differences(&self, other: &Self) -> Vec<Difference> {
        if self.same_as(other) {
            return Vec::new();
        }
        let mut found = Vec::new();
        if let (Ok(left), Ok(right)) = (serde_json::to_value(self), serde_json::to_value(other)) {
            collect("", &left, &right, &mut found);
        }
        if found.is_empty() {
            // JSON has no words for some values, infinities for one; the print has.
            found.push(Difference {
                field: String::new(),
                left: format!("{self:?}"),
                right: format!("{other:?}"),
            });
        }
        found
    }
}

impl<T: Clone + PartialEq + fmt::Debug + Serialize + Send + Sync + 'static> Record for T {}

/// One field in which two records differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The path of the field, `address.city`; empty for the record as a whole.
    pub field: String,
    /// The value in the primary's record, as JSON.
    pub left: String,
    /// The value in the secondary's record, as JSON.
    pub right: String,
}

fn collect(path: &str, left: &Value, right: &Value, found: &mut Vec<Difference>) {
    if left == right {
        return;
    }
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let extra = b.keys().filter(|name| !a.contains_key(*name));
            for name in a.keys().chain(extra) {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let absent = Value::Null;
                collect(&inner, a.get(name).unwrap_or(&absent), b.get(name).unwrap_or(&absent), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (x, y)) in a.iter().zip(b).enumerate() {
                collect(&format!("{path}[{index}]"), x, y, found);
            }
        }
        _ => found.push(Difference {
            field: path.to_owned(),
            left: left.to_string(),
            right: right.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize)]
    struct User {
        name: String,
        address: Address,
        score: f64,
    }

    #[derive(Clone, Debug, PartialEq, Serialize)]
    struct Address {
        city: String,
        lines: Vec<String>,
    }

    fn ada() -> User {
        let address = Address { city: "London".into(), lines: vec!["1".into(), "2".into()] };
        User { name: "Ada".into(), address, score: 1.0 }
    }

    #[test]
    fn differences_name_the_fields() {
        let mut other = ada();
        other.address.city = "Paris".into();
        other.address.lines[1] = "3".into();
        let fields: Vec<_> = ada().differences(&other).into_iter().map(|d| d.field).collect();
        assert_eq!(fields, ["address.city", "address.lines[1]"]);
    }

    #[test]
    fn not_a_number_is_the_same_as_itself_and_infinities_differ() {
        let (nan, up, down) = (
            User { score: f64::NAN, ..ada() },
            User { score: f64::INFINITY, ..ada() },
            User { score: f64::NEG_INFINITY, ..ada() },
        );
        assert!(nan.same_as(&nan.clone()));
        assert!(!up.same_as(&down));
        assert_eq!(up.differences(&down).len(), 1);
    }
}
