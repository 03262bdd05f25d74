//! The same value as one of another type, where records carry another type than a column has.

use super::{ColumnType, Value};

/// Whether values of two types are of the same class, so that nothing is to be converted.
pub(crate) fn same_values(left: &ColumnType, right: &ColumnType) -> bool {
    use ColumnType as Ty;
    match (left, right) {
        (Ty::Integer { .. } | Ty::Boolean, Ty::Integer { .. } | Ty::Boolean) => true,
        (Ty::Text { .. } | Ty::Bits, Ty::Text { .. } | Ty::Bits) => true,
        (_, Ty::Any) => true,
        (Ty::Other(left), Ty::Other(right)) => left == right,
        (left, right) => std::mem::discriminant(left) == std::mem::discriminant(right),
    }
}

/// Whether values in the order of one type are in order when they are carried as another.
pub(crate) const fn keeps_order(natural: &ColumnType, carried: &ColumnType) -> bool {
    use ColumnType as Ty;
    matches!(
        (natural, carried),
        (Ty::Integer { .. } | Ty::Boolean | Ty::Real { .. }, Ty::Integer { .. } | Ty::Boolean | Ty::Real { .. })
            | (Ty::Integer { .. } | Ty::Boolean | Ty::Decimal { .. }, Ty::Decimal { .. })
            | (Ty::Decimal { .. }, Ty::Integer { .. })
            // In their canonical form these texts are in the order of their values.
            | (Ty::Text { .. }, Ty::Uuid)
            | (Ty::Uuid, Ty::Text { .. })
    )
}

/// The same value as one of another type.
///
/// # Errors
/// A short reason, without the column's name.
pub(crate) fn converted(value: Value, ty: &ColumnType) -> Result<Value, String> {
    use ColumnType as Ty;
    match (&value, ty) {
        (Value::Null, _)
        | (_, Ty::Any)
        | (Value::Integer(_) | Value::Unsigned(_), Ty::Integer { .. } | Ty::Boolean)
        | (Value::Real(_), Ty::Real { .. })
        | (Value::Decimal(_), Ty::Decimal { .. })
        | (Value::Text(_), Ty::Text { .. } | Ty::Bits)
        | (Value::Blob(_), Ty::Bytes { .. })
        | (Value::Date(_), Ty::Date)
        | (Value::Time(_), Ty::Time)
        | (Value::Timestamp(_), Ty::Timestamp { .. })
        | (Value::Interval(_), Ty::Interval)
        | (Value::Json(_), Ty::Json)
        | (Value::Uuid(_), Ty::Uuid)
        | (Value::Other(_), Ty::Other(_)) => Ok(value),
        (Value::Integer(integer), Ty::Real { .. }) => {
            let real = *integer as f64;
            let same = real as i128 == i128::from(*integer);
            if same { Ok(Value::Real(real)) } else { Err(format!("{integer} is no float without loss")) }
        }
        (Value::Real(real), Ty::Integer { .. } | Ty::Boolean) => {
            let whole = real.trunc() == *real && real.abs() < 9.3e18;
            match i64::try_from(*real as i128) {
                Ok(integer) if whole => Ok(Value::Integer(integer)),
                _ => Err(format!("{real:?} is no integer")),
            }
        }
        (Value::Decimal(decimal), Ty::Integer { .. } | Ty::Boolean) => {
            let text = decimal.as_str();
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            if fraction.bytes().any(|digit| digit != b'0') {
                return Err(format!("{decimal} is no integer"));
            }
            Ty::signed(64).parse(whole)
        }
        (Value::Blob(_), _) => Err(format!("{value} is no {ty}")),
        // A value of a type that this database lacks is kept as its text.
        (Value::Text(text), Ty::Other(_)) => Ok(Value::Other(text.clone())),
        (_, Ty::Bytes { .. } | Ty::Other(_)) => Err(format!("{value} is {}, not {ty}", value.class())),
        (_, Ty::Text { .. }) => Ok(value.to_text().map_or(Value::Null, Value::Text)),
        (Value::Text(text) | Value::Json(text), ty) => ty.parse(text),
        (Value::Integer(_) | Value::Unsigned(_), Ty::Decimal { .. }) => {
            value.to_text().map_or_else(|| Err("no number".to_owned()), |text| ty.parse(&text))
        }
        _ => Err(format!("{value} is {}, not {ty}", value.class())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_converts_converts_back_and_nothing_is_rounded() {
        let decimal = |text: &str| Value::Decimal(text.parse().unwrap());
        let text = |text: &str| Value::Text(text.to_owned());
        let any_decimal = ColumnType::Decimal { precision: None, scale: None, special: true };
        for (value, ty, other) in [
            (Value::Integer(7), any_decimal.clone(), decimal("7")),
            (Value::Integer(7), ColumnType::Real { bits: 64, special: true }, Value::Real(7.0)),
            (
                Value::Uuid([0; 16]),
                ColumnType::Text { max: None },
                text("00000000-0000-0000-0000-000000000000"),
            ),
            (Value::Date(0), ColumnType::Text { max: None }, text("1970-01-01")),
        ] {
            assert_eq!(converted(value.clone(), &ty), Ok(other.clone()));
            let back = match value {
                Value::Integer(_) => ColumnType::signed(64),
                Value::Uuid(_) => ColumnType::Uuid,
                _ => ColumnType::Date,
            };
            assert_eq!(converted(other, &back), Ok(value));
        }
        let (array, other) = (Value::Other("{1}".to_owned()), ColumnType::Other("int[]".to_owned()));
        assert_eq!(converted(array.clone(), &ColumnType::Text { max: None }), Ok(text("{1}")));
        assert_eq!(converted(text("{1}"), &other), Ok(array));
        for (value, ty) in [
            (Value::Integer((1 << 53) + 1), ColumnType::Real { bits: 64, special: true }),
            (Value::Real(0.5), ColumnType::signed(64)),
            (decimal("0.5"), ColumnType::signed(64)),
            (text("x"), ColumnType::Uuid),
            (Value::Blob(vec![1]), ColumnType::Text { max: None }),
            (Value::Other("{1}".to_owned()), ColumnType::Date),
        ] {
            assert!(converted(value.clone(), &ty).is_err(), "{value} as {ty}");
        }
    }
}
