use super::tree::Node;
use super::value::Val;
use crate::bucketing::Bucketing;

/// Sees what an evaluation does. The usual one sees nothing and costs nothing.
pub(crate) trait Trace<'a> {
    const ON: bool;

    /// A node was evaluated.
    fn value(&mut self, node: &'a Node, value: &Val<'a>);

    /// A subject was hashed.
    fn hashed(&mut self, node: &'a Node, hashed: Hashed);

    /// This node gave the result.
    fn landed(&mut self, node: &'a Node);
}

/// Where a subject landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hashed {
    pub(crate) hash: u32,
    pub(crate) bucketing: Bucketing,
    pub(crate) bucket: Option<usize>,
}

/// Sees nothing.
pub(crate) struct NoTrace;

impl<'a> Trace<'a> for NoTrace {
    const ON: bool = false;

    #[inline]
    fn value(&mut self, _: &'a Node, _: &Val<'a>) {}

    #[inline]
    fn hashed(&mut self, _: &'a Node, _: Hashed) {}

    #[inline]
    fn landed(&mut self, _: &'a Node) {}
}
