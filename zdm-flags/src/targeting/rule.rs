use std::collections::HashMap;

use serde_json::Value;
use zdm_core::clock::SystemClock;

use super::compile::Compiler;
use super::evaluate::{Data, Item, Run, Scope};
use super::trace::NoTrace;
use super::tree::Node;
use crate::bucketing::Bucketing;
use crate::definition::document::Document;
use crate::definition::finding::{At, Findings};
use crate::definition::{Finding, Severity};

/// A rule by itself, over any JSON: for trying rules out and for checking them against other engines.
///
/// ```
/// use serde_json::json;
/// use zdm_flags::targeting::Rule;
///
/// let rule = Rule::parse(br#"{"in": [{"var": "country"}, ["DE", "AT"]]}"#).unwrap();
/// assert_eq!(rule.evaluate(&json!({"country": "AT"})), json!(true));
///
/// let findings = Rule::parse(br#"{"if": [{"frobnicate": 1}]}"#).unwrap_err();
/// assert_eq!(findings[0].path, "/if/0/frobnicate");
/// ```
#[derive(Debug)]
pub struct Rule {
    node: Node,
    findings: Vec<Finding>,
}

impl Rule {
    /// Compiles a rule. `fractional` uses `flagd-v2` and an empty flag key.
    ///
    /// # Errors
    /// What is wrong with it, if it cannot be evaluated.
    pub fn parse(json: &[u8]) -> Result<Self, Vec<Finding>> {
        let mut findings = Findings::default();
        let document: Document = match serde_json::from_slice(json) {
            Ok(document) => document,
            Err(error) => {
                findings.fault(&At::Root, error.to_string());
                return Err(findings.into_vec());
            }
        };
        let evaluators = HashMap::default();
        let mut compiler = Compiler {
            flag_key: "",
            bucketing: Bucketing::default(),
            group: "",
            variants: &[],
            evaluators: &evaluators,
            findings: &mut findings,
            nodes: 0,
            open: Vec::new(),
            fractional_at: None,
        };
        let node = compiler.node(&document, &At::Root, 0, false);
        let broken = findings.first_fault().is_some();
        let findings = findings.into_vec();
        if broken { Err(findings) } else { Ok(Self { node, findings }) }
    }

    /// What is wrong or risky, although the rule can be evaluated.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether the rule is as flagd's schema wants it.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Warning)
    }

    /// The value of the rule over `data`.
    pub fn evaluate(&self, data: &Value) -> Value {
        let scope = Scope { data: Data::Json(data), flag_key: "", clock: &SystemClock, variants: &[] };
        Run { scope, trace: &mut NoTrace }.value(&self.node, &Item::Outside).to_json()
    }
}
