//! Values that both sides of a column take.

use zdm_sql_adapters::table::{ColumnShape, ColumnType, Value};

/// Letters of words; all of them stand in every character set that is in use.
const LETTERS: [char; 30] = [
    'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'k', 'l', 'm', 'n', 'o', 'p', 'r', 's', 't', 'u', 'v', 'w',
    'z', 'A', 'E', 'O', 'é', 'ß', 'ñ', 'ü', '\'',
];
const MICROS_PER_SECOND: i64 = 1_000_000;

/// What the values of a column may be on both sides.
#[derive(Clone, Debug)]
pub struct Bounds {
    ty: ColumnType,
    least: i64,
    most: i64,
    /// Characters or bytes.
    length: usize,
    whole_digits: u32,
    scale: u32,
}

impl Bounds {
    /// The values that rows of a type carry and that both columns take.
    pub fn of(ty: &ColumnType, old: &ColumnShape, new: &ColumnShape) -> Self {
        let mut bounds =
            Self { ty: ty.clone(), least: 0, most: 1_000_000, length: 24, whole_digits: 4, scale: 2 };
        for side in [&old.ty, &new.ty] {
            match side {
                ColumnType::Integer { min, max } => {
                    bounds.least = bounds.least.max(*min);
                    bounds.most = bounds.most.min(i64::try_from(*max).unwrap_or(i64::MAX));
                }
                ColumnType::Boolean => bounds.most = bounds.most.min(1),
                ColumnType::Text { max: Some(max) } | ColumnType::Bytes { max: Some(max) } => {
                    bounds.length = bounds.length.min(usize::try_from(*max).unwrap_or(usize::MAX));
                }
                ColumnType::Decimal { precision: Some(precision), scale, .. } => {
                    let scale = scale.unwrap_or_default();
                    bounds.scale = bounds.scale.min(scale);
                    bounds.whole_digits = bounds.whole_digits.min(precision.saturating_sub(scale));
                }
                _ => {}
            }
        }
        bounds
    }

    /// Whether values can be invented at all.
    pub const fn known(&self) -> bool {
        !matches!(self.ty, ColumnType::Any | ColumnType::Bits | ColumnType::Interval | ColumnType::Other(_))
    }

    /// Any value.
    pub fn random(&self, random: &mut fastrand::Rng) -> Option<Value> {
        Some(match &self.ty {
            ColumnType::Boolean => Value::Integer(random.i64(0..=1)),
            ColumnType::Integer { .. } => Value::Integer(random.i64(self.least..=self.most.max(self.least))),
            ColumnType::Decimal { .. } => self.decimal(random.i64(0..i64::MAX)),
            // Floats of 32 bits hold these too.
            ColumnType::Real { .. } => Value::Real(f64::from(random.i32(-1_000_000..1_000_000)) / 64.0),
            ColumnType::Text { .. } => {
                let length = random.usize(0..=self.length);
                Value::Text((0..length).map(|_| LETTERS[random.usize(0..LETTERS.len())]).collect())
            }
            ColumnType::Bytes { .. } => {
                let length = random.usize(0..=self.length);
                Value::Blob((0..length).map(|_| random.u8(..)).collect())
            }
            // From 1990 to 2030.
            ColumnType::Date => Value::Date(random.i32(7_305..21_915)),
            ColumnType::Time => Value::Time(random.i64(0..86_400) * MICROS_PER_SECOND),
            ColumnType::Timestamp { .. } => {
                Value::Timestamp(random.i64(631_152_000..1_893_456_000) * MICROS_PER_SECOND)
            }
            ColumnType::Json => {
                Value::Json(format!("{{\"number\": {}, \"list\": [true, null, 1.5]}}", random.u32(..)))
            }
            ColumnType::Uuid => Value::Uuid(random.u128(..).to_be_bytes()),
            ColumnType::Any | ColumnType::Bits | ColumnType::Interval | ColumnType::Other(_) => return None,
        })
    }

    /// A value that no other number gives; `None` where there is none, or the numbers are used up.
    pub fn fresh(&self, number: i64) -> Option<Value> {
        Some(match &self.ty {
            ColumnType::Integer { max, .. } if i64::try_from(*max).map_or(true, |max| number <= max) => {
                // The columns' own bounds, and not those of random values.
                Value::Integer(number)
            }
            ColumnType::Decimal { .. } if number < 10_i64.pow(self.whole_digits.min(18)) => {
                Value::Decimal(number.into())
            }
            ColumnType::Text { .. } => {
                let text = format!("zdm{number}");
                (text.len() <= self.length).then_some(Value::Text(text))?
            }
            ColumnType::Bytes { .. } if self.length >= 8 => Value::Blob(number.to_be_bytes().to_vec()),
            ColumnType::Date => Value::Date(i32::try_from(number % 2_000_000).ok()? + 30_000),
            ColumnType::Timestamp { .. } => {
                Value::Timestamp((2_000_000_000 + number % 100_000_000_000) * MICROS_PER_SECOND)
            }
            // Random ones have other bits in their first half.
            ColumnType::Uuid => Value::Uuid(u128::from(number.unsigned_abs()).to_be_bytes()),
            _ => return None,
        })
    }

    fn decimal(&self, random: i64) -> Value {
        let power = |digits: u32| 10_i64.pow(digits.min(9));
        let whole = random % power(self.whole_digits);
        let text = match self.scale {
            0 => whole.to_string(),
            scale => {
                let fraction = random / power(self.whole_digits) % power(scale);
                format!("{whole}.{fraction:0>width$}", width = scale as usize)
            }
        };
        text.parse().map_or(Value::Null, Value::Decimal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(ty: ColumnType) -> ColumnShape {
        let declared = ty.to_string();
        ColumnShape {
            name: "c".into(),
            ty,
            declared,
            not_null: true,
            generated: false,
            expression: None,
            counted: false,
            default: None,
            on_update_now: false,
        }
    }

    #[test]
    fn values_fit_the_narrower_side() {
        let decimal = |precision, scale| ColumnType::Decimal {
            precision: Some(precision),
            scale: Some(scale),
            special: false,
        };
        let mut random = fastrand::Rng::with_seed(3);
        for (old, new) in [
            (ColumnType::signed(64), ColumnType::signed(8)),
            (decimal(10, 2), decimal(4, 1)),
            (ColumnType::Text { max: Some(5) }, ColumnType::Text { max: None }),
            (ColumnType::Uuid, ColumnType::Text { max: Some(36) }),
        ] {
            let bounds = Bounds::of(&old, &column(old.clone()), &column(new.clone()));
            for _ in 0..500 {
                match bounds.random(&mut random).unwrap() {
                    Value::Integer(number) => assert!((0..=127).contains(&number)),
                    Value::Decimal(number) => {
                        assert!(number.as_str().len() <= 5 && number.scale() == 1, "{number}")
                    }
                    Value::Text(text) => assert!(text.chars().count() <= 5),
                    Value::Uuid(_) => {}
                    other => panic!("{other}"),
                }
            }
        }
        let text = Bounds::of(
            &ColumnType::Text { max: Some(5) },
            &column(ColumnType::Text { max: Some(5) }),
            &column(ColumnType::Text { max: None }),
        );
        assert_eq!((text.fresh(12), text.fresh(123)), (Some(Value::Text("zdm12".into())), None));
    }
}
