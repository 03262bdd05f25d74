use serde_json::{Map, Value, json};

use crate::engine::LoadError;

/// A flag that is made in code: the plain feature manager, on the same engine as the files.
///
/// ```
/// use zdm_flags::{Context, Flags, InCode};
///
/// let flags = Flags::builder()
///     .flag(InCode::enabled("new-login"))
///     .flag(InCode::percentage("new-checkout", 25.0).users(["ada", "grace"]))
///     .build()?;
/// assert!(flags.snapshot().by_name::<bool>("new-checkout", false, &Context::key("ada")));
/// # Ok::<_, zdm_flags::LoadError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct InCode {
    key: String,
    percent: f64,
    users: Vec<String>,
}

impl InCode {
    /// On for everyone.
    pub fn enabled(key: impl Into<String>) -> Self {
        Self::percentage(key, 100.0)
    }

    /// Off for everyone but the [`users`](Self::users).
    pub fn disabled(key: impl Into<String>) -> Self {
        Self::percentage(key, 0.0)
    }

    /// On for a share of the subjects, in percent, always the same ones. Raising it only adds subjects.
    pub fn percentage(key: impl Into<String>, percent: f64) -> Self {
        Self { key: key.into(), percent, users: Vec::new() }
    }

    /// On for these targeting keys in any case.
    #[must_use]
    pub fn users<I: IntoIterator<Item: Into<String>>>(mut self, users: I) -> Self {
        self.users.extend(users.into_iter().map(Into::into));
        self
    }

    fn definition(&self) -> Result<Value, LoadError> {
        if !(0.0..=100.0).contains(&self.percent) {
            let message = format!("the flag {:?}: {} is not between 0 and 100 %", self.key, self.percent);
            return Err(LoadError::Setting(message));
        }
        let rest = if self.percent >= 100.0 {
            json!("on")
        } else if self.percent <= 0.0 {
            json!("off")
        } else {
            // Weights are whole: a millionth is fine enough for any share.
            #[expect(clippy::cast_possible_truncation, reason = "between 0 and 1 000 000")]
            let on = (self.percent * 10_000.0).round() as i64;
            json!({"fractional": [["on", on], ["off", 1_000_000 - on]]})
        };
        let targeting = if self.users.is_empty() {
            rest
        } else {
            json!({"if": [{"in": [{"var": "targetingKey"}, self.users]}, "on", rest]})
        };
        let mut flag = json!({"state": "ENABLED", "variants": {"on": true, "off": false}});
        if let Value::String(variant) = targeting {
            flag["defaultVariant"] = Value::String(variant);
        } else {
            flag["defaultVariant"] = json!("off");
            flag["targeting"] = targeting;
        }
        Ok(flag)
    }
}

/// The flags as a file, so that they are read as any other.
pub(crate) fn document(flags: &[InCode]) -> Result<Vec<u8>, LoadError> {
    let mut entries = Map::new();
    for flag in flags {
        if entries.insert(flag.key.clone(), flag.definition()?).is_some() {
            return Err(LoadError::Setting(format!("the flag {:?} is made twice", flag.key)));
        }
    }
    let file = json!({"metadata": {"zdm.bucketing": "flagd-v2"}, "flags": entries});
    Ok(file.to_string().into_bytes())
}
