//! The operators of JsonLogic that most flags do not need: arithmetic, text, lists.

use std::cmp::Ordering;
use std::fmt::{self, Write};

use super::evaluate::{Item, Run};
use super::trace::Trace;
use super::tree::{Math, Node, Op, Order};
use super::value::Val;

/// Kept apart from the operators that most flags use, so that those stay small and fast.
#[inline(never)]
pub(crate) fn compute<'a, T: Trace<'a>>(run: &mut Run<'a, '_, T>, op: &'a Op, item: &Item<'a>) -> Val<'a> {
    match op {
        Op::Order { test, sides } => order(run, *test, sides, item),
        Op::Math { math, args } => arithmetic(run, *math, args, item),
        Op::Cat(parts) => {
            let mut text = String::new();
            run.write_parts(parts, item, &mut text);
            Val::Text(text.into_boxed_str())
        }
        Op::Substr(args) => substr(run, args, item),
        Op::Merge(args) => {
            let mut merged = Vec::new();
            for arg in args {
                push_flat(run.value(arg, item), &mut merged);
            }
            Val::List(merged)
        }
        Op::In(sides) => {
            let (needle, haystack) = (run.value(&sides[0], item), run.value(&sides[1], item));
            Val::Bool(is_in(&needle, &haystack))
        }
        Op::Missing(args) => {
            let mut names = Vec::new();
            for arg in args {
                push_flat(run.value(arg, item), &mut names);
            }
            Val::List(missing(run, names, item))
        }
        Op::MissingSome(sides) => {
            let needed = run.value(&sides[0], item).to_number();
            let names: Vec<_> = run.value(&sides[1], item).items().into_iter().flatten().collect();
            let total = names.len();
            let absent = missing(run, names, item);
            #[expect(clippy::cast_precision_loss, reason = "a count of names in a file")]
            let present = (total - absent.len()) as f64;
            Val::List(if present >= needed { Vec::new() } else { absent })
        }
        Op::Map(sides) => {
            let list = run.value(&sides[0], item);
            let items = list.items().into_iter().flatten();
            Val::List(items.map(|each| run.value(&sides[1], &Item::Value(each))).collect())
        }
        Op::Filter(sides) => {
            let list = run.value(&sides[0], item);
            let items = list.items().into_iter().flatten();
            Val::List(items.filter(|each| run.truth(&sides[1], &Item::Value(each.clone()))).collect())
        }
        Op::Reduce(args) => {
            let list = run.value(&args[0], item);
            let mut accumulator = run.value(&args[2], item);
            for current in list.items().into_iter().flatten() {
                accumulator = run.value(&args[1], &Item::Reduce { current, accumulator });
            }
            accumulator
        }
        Op::All(sides) => {
            let list = run.value(&sides[0], item);
            let mut items = list.items().into_iter().flatten().peekable();
            // Nothing holds for all of no items.
            let any = items.peek().is_some();
            Val::Bool(any && items.all(|each| run.truth(&sides[1], &Item::Value(each))))
        }
        Op::Some(sides) => Val::Bool(any(run, sides, item)),
        Op::None(sides) => Val::Bool(!any(run, sides, item)),
        // The others are computed by the caller.
        _ => Val::Null,
    }
}

fn any<'a, T: Trace<'a>>(run: &mut Run<'a, '_, T>, sides: &'a [Node; 2], item: &Item<'a>) -> bool {
    let list = run.value(&sides[0], item);
    list.items().into_iter().flatten().any(|each| run.truth(&sides[1], &Item::Value(each)))
}

fn order<'a, T: Trace<'a>>(
    run: &mut Run<'a, '_, T>,
    test: Order,
    sides: &'a [Node],
    item: &Item<'a>,
) -> Val<'a> {
    let mut sides = sides.iter();
    let Some(first) = sides.next() else { return Val::Bool(false) };
    let mut before = run.value(first, item);
    for side in sides {
        let next = run.value(side, item);
        let holds = before.compare(&next).is_some_and(|order| match test {
            Order::Less => order == Ordering::Less,
            Order::LessOrEqual => order != Ordering::Greater,
            Order::Greater => order == Ordering::Greater,
            Order::GreaterOrEqual => order != Ordering::Less,
        });
        if !holds {
            return Val::Bool(false);
        }
        before = next;
    }
    Val::Bool(true)
}

fn arithmetic<'a, T: Trace<'a>>(
    run: &mut Run<'a, '_, T>,
    math: Math,
    args: &'a [Node],
    item: &Item<'a>,
) -> Val<'a> {
    let mut args = args.iter();
    let Some(first) = args.next() else {
        // As in JavaScript: a sum of nothing is 0; the least of nothing is infinite, so no number.
        return if math == Math::Add { Val::Int(0) } else { Val::Null };
    };
    let first = run.value(first, item);
    let mut total = read(math, &first);
    let mut count = 1;
    let mut exact = whole(&first);
    for arg in args {
        let value = run.value(arg, item);
        exact = exact.zip(whole(&value)).and_then(|(a, b)| exact_step(math, a, b));
        total = step(math, total, read(math, &value));
        count += 1;
    }
    if count == 1 && math == Math::Subtract {
        total = -total;
        exact = exact.and_then(i64::checked_neg);
    }
    // Whole numbers stay exact where floats would round.
    exact.map_or_else(|| Val::number(total), Val::Int)
}

fn read(math: Math, value: &Val<'_>) -> f64 {
    match math {
        // JsonLogic reads the numbers of + and * as `parseFloat` does.
        Math::Add | Math::Multiply => value.parse_float(),
        _ => value.to_number(),
    }
}

fn whole(value: &Val<'_>) -> Option<i64> {
    match value {
        Val::Int(whole) => Some(*whole),
        _ => None,
    }
}

fn exact_step(math: Math, a: i64, b: i64) -> Option<i64> {
    match math {
        Math::Add => a.checked_add(b),
        Math::Subtract => a.checked_sub(b),
        Math::Multiply => a.checked_mul(b),
        Math::Divide => (b != 0 && a.checked_rem(b) == Some(0)).then(|| a / b),
        Math::Modulo => a.checked_rem(b),
        Math::Min => Some(a.min(b)),
        Math::Max => Some(a.max(b)),
    }
}

fn step(math: Math, a: f64, b: f64) -> f64 {
    match math {
        Math::Add => a + b,
        Math::Subtract => a - b,
        Math::Multiply => a * b,
        Math::Divide => a / b,
        Math::Modulo => a % b,
        // Unlike Rust's, these spread NaN.
        Math::Min if a.is_nan() || b.is_nan() => f64::NAN,
        Math::Max if a.is_nan() || b.is_nan() => f64::NAN,
        Math::Min => a.min(b),
        Math::Max => a.max(b),
    }
}

fn substr<'a, T: Trace<'a>>(run: &mut Run<'a, '_, T>, args: &'a [Node], item: &Item<'a>) -> Val<'a> {
    let Some(text) = args.first().map(|arg| run.value(arg, item)) else { return Val::Null };
    let start = args.get(1).map_or(0.0, |arg| run.value(arg, item).to_number());
    let length = args.get(2).map(|arg| run.value(arg, item).to_number());
    let whole = text.to_text();
    let count = whole.chars().count();
    let from = position(start, count);
    let until = match length {
        None => count,
        Some(length) if length >= 0.0 => from.saturating_add(position(length, usize::MAX)).min(count),
        // Negative: leave that many out at the end.
        Some(length) => position(length, count),
    };
    let part = cut(&whole, from, until.max(from));
    match &text {
        Val::Str(text) => Val::Str(cut(text, from, until.max(from))),
        _ => Val::Text(part.into()),
    }
}

/// A position in characters; negative ones count from the end.
fn position(number: f64, count: usize) -> usize {
    if number.is_nan() {
        return 0;
    }
    // A float is cut off at the bounds of the integer, which is what is wanted here.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let distance = number.abs() as usize;
    if number < 0.0 { count.saturating_sub(distance) } else { distance.min(count) }
}

fn cut(text: &str, from: usize, until: usize) -> &str {
    let byte = |count: usize| text.char_indices().nth(count).map_or(text.len(), |(at, _)| at);
    &text[byte(from)..byte(until)]
}

fn is_in(needle: &Val<'_>, haystack: &Val<'_>) -> bool {
    match haystack.as_str() {
        Some(text) => text.contains(needle.to_text().as_ref()),
        None => haystack.items().into_iter().flatten().any(|each| each.same(needle)),
    }
}

fn push_flat<'a>(value: Val<'a>, into: &mut Vec<Val<'a>>) {
    match value.items() {
        Some(items) => into.extend(items),
        None => into.push(value),
    }
}

/// The names that have no value, or an empty one.
fn missing<'a, T: Trace<'a>>(run: &Run<'a, '_, T>, names: Vec<Val<'a>>, item: &Item<'a>) -> Vec<Val<'a>> {
    let absent = |name: &Val<'a>| match run.read_named(name, item) {
        None | Some(Val::Null) => true,
        Some(value) => value.as_str().is_some_and(str::is_empty),
    };
    names.into_iter().filter(absent).collect()
}

/// The text of a version: numbers count too, such as 1.2.
pub(crate) fn version_text<'v>(value: &'v Val<'_>, buffer: &'v mut ShortText) -> Option<&'v str> {
    match value {
        Val::Int(_) | Val::Float(_) => {
            value.write_text(buffer).ok()?;
            buffer.get()
        }
        _ => value.as_str(),
    }
}

/// A short text on the stack. Numbers that are longer are no versions.
#[derive(Default)]
pub(crate) struct ShortText {
    bytes: [u8; 32],
    length: usize,
}

impl ShortText {
    fn get(&self) -> Option<&str> {
        std::str::from_utf8(&self.bytes[..self.length]).ok()
    }
}

impl Write for ShortText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
