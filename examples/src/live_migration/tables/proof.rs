//! The proof: both databases, row by row, against what was there at first and what was acknowledged.
//!
//! Nothing of zdm takes part: each side reads its rows with SQL of its own, over connections of its own, and
//! hands them out as text in a canonical form. Rows are spread over files by their keys, so the order in which
//! databases hand them out does not matter, and memory stays small.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use super::super::checker::Verdict;
use super::super::history::{Allowed, Position};
use super::super::ledger::Recorded;
use super::super::{Failure, Result};
use super::canonical::{Raw, line};
use super::names::Names;
use super::plan::Table;
use super::side::Side;
use super::spread::{PARTS, RowName, Spread, part_of, rows};

/// How many findings are kept word for word.
const FINDINGS: usize = 10;

/// Writes every row of the tables into files. Returns how many there are, and the greatest whole number in
/// the key of each table.
///
/// # Errors
/// A table cannot be read, or a file not written.
pub async fn unload(side: &dyn Side, tables: &[Table], dir: &Path) -> Result<(u64, Vec<i64>)> {
    let mut spread = Spread::create(dir)?;
    let (mut count, mut greatest) = (0, Vec::with_capacity(tables.len()));
    for (number, table) in (0_u16..).zip(tables) {
        let (columns, places) = (table.columns(), table.key_places());
        let mut most = 0;
        let mut take = |values: Vec<Raw>| {
            if values.len() != columns.len() {
                return Err(Failure::new(format!("a row of table {} has other columns", table.name)));
            }
            let typed = || values.iter().zip(columns.iter().map(|(_, ty)| ty));
            for at in &places {
                most = most.max(number_in(&values[*at]));
            }
            let key = line(places.iter().map(|at| (&values[*at], &columns[*at].1)));
            count += 1;
            spread.add(&(number, key), &line(typed()))
        };
        side.read(&table.name, &columns, &mut take).await?;
        greatest.push(most);
    }
    spread.finish()?;
    Ok((count, greatest))
}

fn number_in(raw: &Raw) -> i64 {
    match raw {
        Raw::Integer(number) => *number,
        Raw::Text(text) => text.parse().unwrap_or_default(),
        _ => 0,
    }
}

/// Where the rows are that were there at first, and those that are there now.
#[derive(Clone, Copy, Debug)]
pub struct Unloaded<'a> {
    /// Before the first write.
    pub initial: &'a Path,
    /// The old side now.
    pub old: &'a Path,
    /// The new side now.
    pub new: &'a Path,
}

/// Compares both sides, what was there at first, and the ledger.
///
/// # Errors
/// A file cannot be read or is damaged.
pub fn check(tables: &[Table], unloaded: Unloaded<'_>, ledger: &Path, names: &Names) -> Result<Verdict> {
    let recorded = Recorded::read(ledger)?;
    let mut written: Vec<HashMap<RowName, i64>> = vec![HashMap::new(); PARTS];
    for (name, number) in names.all() {
        written[part_of(&name)].insert(name, number);
    }
    let mut verdict = Verdict {
        acknowledged_writes: recorded.history.acknowledged(),
        written_keys: written.iter().map(|part| part.len() as u64).sum(),
        ..Verdict::default()
    };
    for (part, written) in written.iter().enumerate() {
        let [initial, old, new] = [unloaded.initial, unloaded.old, unloaded.new].map(|dir| rows(dir, part));
        let (initial, old, new) = (initial?, old?, new?);
        verdict.old_rows += old.len() as u64;
        verdict.new_rows += new.len() as u64;
        let keys: BTreeSet<_> =
            initial.keys().chain(old.keys()).chain(new.keys()).chain(written.keys()).collect();
        for name in keys {
            let first = initial.get(name).map(String::as_str);
            let history = match written.get(name) {
                Some(number) => recorded.history.allowed(*number, Position::MAX, Position::MAX),
                None => Allowed { initial: true, ..Allowed::default() },
            };
            let (in_old, in_new) = (old.get(name).map(String::as_str), new.get(name).map(String::as_str));
            let table = tables.get(usize::from(name.0)).map_or("?", |table| &table.name);
            let old_is_right = judge(&mut verdict, (table, "old", &name.1), in_old, first, &history);
            let new_is_right = judge(&mut verdict, (table, "new", &name.1), in_new, first, &history);
            if old_is_right && new_is_right && in_old != in_new {
                verdict.mismatches += 1;
                note(&mut verdict, || {
                    format!(
                        "{table} {} is {in_old:?} in the old database and {in_new:?} in the new one",
                        name.1
                    )
                });
            }
        }
    }
    Ok(verdict)
}

fn judge(
    verdict: &mut Verdict,
    (table, side, key): (&str, &str, &str),
    found: Option<&str>,
    first: Option<&str>,
    history: &Allowed<'_>,
) -> bool {
    let first_allowed = first.filter(|_| history.initial);
    let absent = history.absent || (history.initial && first.is_none());
    let allowed = |line: &str| first_allowed == Some(line) || history.values.contains(&line);
    let there = first_allowed.is_some() || !history.values.is_empty();
    let (count, what) = match found {
        None if absent => return true,
        Some(line) if allowed(line) => return true,
        None => (&mut verdict.lost, "lost"),
        Some(_) if !there => (&mut verdict.extra, "extra"),
        Some(_) => (&mut verdict.mismatches, "different"),
    };
    *count += 1;
    note(verdict, || {
        let mut allowed = history.values.clone();
        allowed.extend(first_allowed);
        format!(
            "{table} {key} is {what} in the {side} database: found {}, allowed {}",
            found.unwrap_or("nothing"),
            if allowed.is_empty() { "nothing".into() } else { allowed.join(" or ") }
        )
    });
    false
}

fn note(verdict: &mut Verdict, finding: impl FnOnce() -> String) {
    if verdict.findings.len() < FINDINGS {
        verdict.findings.push(finding());
    }
}
