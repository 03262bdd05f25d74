//! An OpenFeature provider. OpenFeature's calls are asynchronous and copy; where that matters, call
//! [`Snapshot::get`](crate::Snapshot::get) beside it.

use async_trait::async_trait;
use open_feature::provider::{FeatureProvider, ProviderMetadata, ProviderStatus, ResolutionDetails};
use open_feature::{
    EvaluationContext, EvaluationContextFieldValue, EvaluationError, EvaluationErrorCode, EvaluationReason,
    EvaluationResult, FlagMetadata, FlagMetadataValue, StructValue, Value as OpenValue,
};
use serde_json::Value;

use crate::evaluation::{Context, Details, ErrorCode, Reason};
use crate::handle::FlagType;
use crate::{Flags, Snapshot};

/// Serves [`Flags`] through OpenFeature. Reasons and error codes map one to one.
///
/// Structs among the custom fields of a context are passed on if they hold a [`serde_json::Value`]; other
/// structs have no fields that could be read, and are null. Times are passed on in seconds since 1970.
#[derive(Debug)]
pub struct OpenFeatureProvider {
    flags: Flags,
    metadata: ProviderMetadata,
}

impl OpenFeatureProvider {
    /// A provider over these flags.
    pub fn new(flags: Flags) -> Self {
        Self { flags, metadata: ProviderMetadata::new("zdm-flags") }
    }

    fn resolve<T: FlagType, V>(
        &self,
        key: &str,
        context: &EvaluationContext,
        owned: impl for<'s> FnOnce(T::Out<'s>) -> V,
    ) -> EvaluationResult<ResolutionDetails<V>> {
        let snapshot = self.flags.snapshot();
        let mut cx = context.targeting_key.as_deref().map_or_else(Context::anonymous, Context::key);
        for (name, value) in &context.custom_fields {
            set(&mut cx, name, value);
        }
        let snapshot: &Snapshot = &snapshot;
        let details = snapshot.decided(key, &cx, T::read);
        finish(details, owned)
    }
}

fn set<'a>(cx: &mut Context<'a>, name: &'a str, value: &'a EvaluationContextFieldValue) {
    match value {
        EvaluationContextFieldValue::Bool(value) => cx.set(name, *value),
        EvaluationContextFieldValue::Int(value) => cx.set(name, *value),
        EvaluationContextFieldValue::Float(value) => cx.set(name, *value),
        EvaluationContextFieldValue::String(text) => cx.set(name, text),
        EvaluationContextFieldValue::DateTime(time) => cx.set(name, time.unix_timestamp()),
        EvaluationContextFieldValue::Struct(any) => cx.set(name, any.downcast_ref::<Value>()),
    }
}

fn finish<'s, W, V>(
    details: Details<'s, Option<W>>,
    owned: impl FnOnce(W) -> V,
) -> EvaluationResult<ResolutionDetails<V>> {
    if let Some(error) = details.error {
        let code = match error {
            ErrorCode::FlagNotFound => EvaluationErrorCode::FlagNotFound,
            ErrorCode::ParseError => EvaluationErrorCode::ParseError,
            ErrorCode::TypeMismatch => EvaluationErrorCode::TypeMismatch,
            ErrorCode::General => EvaluationErrorCode::General("GENERAL".to_owned()),
        };
        return Err(EvaluationError { code, message: details.message.map(str::to_owned) });
    }
    let Some(value) = details.value else {
        // OpenFeature has no way to say "use the default of the caller" but an error.
        let message = format!("the code default counts: {}", details.reason);
        return Err(EvaluationError {
            code: EvaluationErrorCode::General(details.reason.as_str().to_owned()),
            message: Some(message),
        });
    };
    let reason = match details.reason {
        Reason::Static => EvaluationReason::Static,
        Reason::Default => EvaluationReason::Default,
        Reason::TargetingMatch => EvaluationReason::TargetingMatch,
        Reason::Disabled => EvaluationReason::Disabled,
        Reason::Error => EvaluationReason::Error,
        other => EvaluationReason::Other(other.as_str().to_owned()),
    };
    let mut metadata = FlagMetadata::default();
    for (name, value) in details.metadata.into_iter().flatten() {
        let value = match value {
            Value::Bool(value) => FlagMetadataValue::Bool(*value),
            Value::String(text) => FlagMetadataValue::String(text.clone()),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => FlagMetadataValue::Int(whole),
                (None, Some(float)) => FlagMetadataValue::Float(float),
                (None, None) => continue,
            },
            _ => continue,
        };
        metadata.values.insert(name.clone(), value);
    }
    let variant = details.variant.map(str::to_owned);
    Ok(ResolutionDetails {
        value: owned(value),
        variant,
        reason: Some(reason),
        flag_metadata: Some(metadata),
    })
}

#[async_trait]
impl FeatureProvider for OpenFeatureProvider {
    fn status(&self) -> ProviderStatus {
        ProviderStatus::Ready
    }

    fn metadata(&self) -> &ProviderMetadata {
        &self.metadata
    }

    async fn resolve_bool_value(
        &self,
        flag_key: &str,
        evaluation_context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<bool>> {
        self.resolve::<bool, _>(flag_key, evaluation_context, |value| value)
    }

    async fn resolve_int_value(
        &self,
        flag_key: &str,
        evaluation_context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<i64>> {
        self.resolve::<i64, _>(flag_key, evaluation_context, |value| value)
    }

    async fn resolve_float_value(
        &self,
        flag_key: &str,
        evaluation_context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<f64>> {
        self.resolve::<f64, _>(flag_key, evaluation_context, |value| value)
    }

    async fn resolve_string_value(
        &self,
        flag_key: &str,
        evaluation_context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<String>> {
        self.resolve::<&'static str, _>(flag_key, evaluation_context, str::to_owned)
    }

    async fn resolve_struct_value(
        &self,
        flag_key: &str,
        evaluation_context: &EvaluationContext,
    ) -> EvaluationResult<ResolutionDetails<StructValue>> {
        self.resolve::<Value, _>(flag_key, evaluation_context, fields)
    }
}

fn fields(value: &Value) -> StructValue {
    let fields = value.as_object().into_iter().flatten();
    // OpenFeature has no null; a field that is null is left out.
    StructValue { fields: fields.filter_map(|(name, value)| Some((name.clone(), open(value)?))).collect() }
}

fn open(value: &Value) -> Option<OpenValue> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => OpenValue::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => OpenValue::Int(whole),
            None => OpenValue::Float(number.as_f64()?),
        },
        Value::String(text) => OpenValue::String(text.clone()),
        Value::Array(items) => OpenValue::Array(items.iter().filter_map(open).collect()),
        Value::Object(_) => OpenValue::Struct(fields(value)),
    })
}
