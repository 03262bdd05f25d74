//! Cases as JSON lines: what to evaluate, and what came out.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use zdm_flags::{Context, Snapshot, ValueType};

/// One line of input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    key: String,
    #[serde(rename = "type")]
    wanted: String,
    #[serde(default)]
    default: Value,
    #[serde(default)]
    targeting_key: Option<String>,
    #[serde(default)]
    context: Map<String, Value>,
}

impl Case {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        serde_json::from_str(line).map_err(|error| error.to_string())
    }

    /// Evaluates it, as of `now` (seconds since 1970) if given.
    ///
    /// # Errors
    /// When its type is none.
    pub fn evaluate(&self, flags: &Snapshot, now: Option<i64>, explain: bool) -> Result<Value, String> {
        let wanted: ValueType =
            self.wanted.parse().map_err(|error: zdm_flags::UnknownType| error.to_string())?;
        let mut cx = self.targeting_key.as_deref().map_or_else(Context::anonymous, Context::key);
        for (name, value) in &self.context {
            cx.set(name, value);
        }
        if let Some(now) = now {
            cx = cx.at(now);
        }
        let details = flags.evaluate(&self.key, wanted, &cx);
        let mut line = json!({
            "value": details.value.clone().unwrap_or_else(|| self.default.clone()),
            "variant": details.variant,
            "reason": details.reason.as_str(),
            "errorCode": details.error.map(|error| error.as_str()),
            "metadata": details.metadata.cloned().unwrap_or_default(),
        });
        if explain {
            let trace = flags.explain_by_name(&self.key, &cx).to_string();
            line["explain"] = trace.lines().collect();
        }
        Ok(line)
    }
}
