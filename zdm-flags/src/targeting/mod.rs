//! Targeting rules: JsonLogic with flagd's operators, compiled once into a typed tree.
//!
//! Constants are put together at load, literal lists become sets, versions are parsed, attribute paths are
//! split, variants become numbers. `fractional` writes its key into the hash piece by piece. Evaluation
//! owns memory only where a rule builds a string, a list or an object (`cat` outside of `fractional`,
//! `merge`, `map`, `filter`, `missing`), never otherwise.
//!
//! Operators that get the wrong arguments yield null, as flagd has it, and the linter says where. What is
//! no number in JSON (an overflow, a division by zero) is null. The operators are `var`, `missing`,
//! `missing_some`, `if`, `?:`, `==`, `===`, `!=`, `!==`, `<`, `<=`, `>`, `>=`, `!`, `!!`, `and`, `or`, `+`,
//! `-`, `*`, `/`, `%`, `min`, `max`, `cat`, `substr`, `merge`, `in`, `map`, `filter`, `reduce`, `all`,
//! `some`, `none`, `starts_with`, `ends_with`, `sem_ver` and `fractional`. No operator of the schema is
//! refused; any other name is a fault of its flag.

mod compile;
mod compile_operator;
mod evaluate;
mod fractional;
mod operators;
mod rule;
mod trace;
mod tree;
mod value;
mod version;

pub(crate) use compile::Compiler;
pub(crate) use evaluate::{Data, Landing, Run, Scope};
pub(crate) use fractional::Weights;
pub use rule::Rule;
pub(crate) use trace::{Hashed, NoTrace, Trace};
pub(crate) use tree::{Node, Op, children};
pub(crate) use value::Val;
