//! Rows in the form in which COPY takes them, and columns of them as array parameters.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo};
use sqlx::{Arguments, Encode, Type};
use zdm_core::error::Result;

use super::classify::classify;

/// Encoded rows: for each the number of its fields, then for each field its length and its bytes, as COPY
/// BINARY has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub(super) bytes: Vec<u8>,
    /// Where each row ends.
    ends: Vec<usize>,
}

impl Rows {
    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Begins a row of so many fields.
    pub(super) fn begin(&mut self, fields: usize) {
        let fields = i16::try_from(fields).unwrap_or(i16::MAX);
        self.bytes.extend_from_slice(&fields.to_be_bytes());
    }

    /// Ends the row that was begun.
    pub(super) fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// Takes back the row that was begun and not ended.
    pub(super) fn undo(&mut self) {
        self.bytes.truncate(self.ends.last().copied().unwrap_or_default());
    }

    /// A row as COPY takes it.
    pub(super) fn row(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }

    /// The fields of a row, each with its length before it.
    pub(super) fn fields(&self, at: usize) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.row(at).get(2..).unwrap_or_default();
        std::iter::from_fn(move || {
            let length = i32::from_be_bytes(*rest.first_chunk::<4>()?);
            let (field, after) = rest.split_at_checked(4 + usize::try_from(length).unwrap_or_default())?;
            rest = after;
            Some(field)
        })
    }

    /// The first columns of some rows as array parameters; `types` are those of the elements and of the
    /// arrays.
    pub(super) fn arrays(&self, places: &[usize], types: impl IntoIterator<Item = (u32, u32)>) -> Vec<Param> {
        let count = i32::try_from(places.len()).unwrap_or(i32::MAX);
        let mut arrays: Vec<Param> = types
            .into_iter()
            .map(|(element, array)| {
                let mut bytes = Vec::with_capacity(20 + places.len() * 12);
                // One dimension that begins at 1 and may hold NULL.
                for word in [1, 1, element.cast_signed(), count, 1] {
                    bytes.extend_from_slice(&word.to_be_bytes());
                }
                Param { oid: array, bytes: Some(bytes) }
            })
            .collect();
        for place in places {
            for (array, field) in arrays.iter_mut().zip(self.fields(*place)) {
                if let Some(bytes) = &mut array.bytes {
                    bytes.extend_from_slice(field);
                }
            }
        }
        arrays
    }
}

/// The fields of a row that COPY sent: their bytes, or NULL. `None` at the end of all rows.
///
/// # Errors
/// When the bytes are no such row.
pub(super) fn parse_row(row: &[u8]) -> Result<Option<impl Iterator<Item = Option<&[u8]>>>, &'static str> {
    let (count, mut rest) = row.split_first_chunk::<2>().ok_or("a row that is cut off")?;
    let mut left = i16::from_be_bytes(*count);
    if left < 0 {
        return Ok(None);
    }
    Ok(Some(std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        left -= 1;
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else { return Some(None) };
        let (field, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(Some(field))
    })))
}

/// The bytes before the first row: the signature, no flags, no extension.
pub(super) const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The bytes behind the last row.
pub(super) const COPY_END: &[u8] = &[0xFF, 0xFF];

/// A parameter that is encoded already.
#[derive(Clone, Debug)]
pub(super) struct Param {
    pub(super) oid: u32,
    /// `None` for NULL.
    pub(super) bytes: Option<Vec<u8>>,
}

impl Param {
    /// From a field with its length before it.
    pub(super) fn of_field(oid: u32, field: &[u8]) -> Self {
        let null = field.first().is_some_and(|first| *first == 0xFF);
        Self { oid, bytes: (!null).then(|| field.get(4..).unwrap_or_default().to_vec()) }
    }
}

impl Type<sqlx::Postgres> for Param {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("text")
    }

    fn compatible(_: &PgTypeInfo) -> bool {
        true
    }
}

impl Encode<'_, sqlx::Postgres> for Param {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> std::result::Result<IsNull, BoxDynError> {
        Ok(match &self.bytes {
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                IsNull::No
            }
            None => IsNull::Yes,
        })
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.oid)))
    }

    fn size_hint(&self) -> usize {
        self.bytes.as_ref().map_or(0, Vec::len)
    }
}

/// Parameters of a statement.
pub(super) fn arguments(parameters: impl IntoIterator<Item = Param>) -> Result<PgArguments> {
    let mut arguments = PgArguments::default();
    for parameter in parameters {
        arguments.add(parameter).map_err(|error| classify(sqlx::Error::Encode(error), "binding a value"))?;
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_apart_as_they_were_put_together() {
        let mut rows = Rows::default();
        for value in [Some(&b"ab"[..]), None, Some(b"")] {
            rows.begin(2);
            for field in [value, Some(&b"x"[..])] {
                match field {
                    Some(bytes) => {
                        rows.bytes.extend_from_slice(&i32::try_from(bytes.len()).unwrap().to_be_bytes());
                        rows.bytes.extend_from_slice(bytes);
                    }
                    None => rows.bytes.extend_from_slice(&(-1_i32).to_be_bytes()),
                }
            }
            rows.end();
        }
        rows.begin(2);
        rows.undo();
        assert_eq!(rows.len(), 3);
        let parsed = |at| parse_row(rows.row(at)).unwrap().unwrap().map(|field| field.map(<[u8]>::to_vec));
        assert_eq!(parsed(0).collect::<Vec<_>>(), [Some(b"ab".to_vec()), Some(b"x".to_vec())]);
        assert_eq!(parsed(1).collect::<Vec<_>>(), [None, Some(b"x".to_vec())]);
        assert!(parse_row(COPY_END).unwrap().is_none() && parse_row(&[0]).is_err());
        let arrays = rows.arrays(&[2, 1], [(25, 1009), (25, 1009)]);
        assert_eq!(arrays[0].bytes.as_ref().unwrap()[20..], [0, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(COPY_HEADER.len(), 19);
    }
}
