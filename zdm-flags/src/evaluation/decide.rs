use super::compiled::{CompiledFlag, State};
use super::{Context, ErrorCode, Reason};
use crate::snapshot::{Entry, Place, Snapshot};
use crate::targeting::{Data, Landing, Run, Scope, Trace};

/// What an evaluation comes to. Without a variant, the code default counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision {
    pub(crate) place: Option<Place>,
    pub(crate) reason: Reason,
    pub(crate) error: Option<ErrorCode>,
}

impl Decision {
    #[inline]
    fn new(place: Option<Place>, reason: Reason) -> Self {
        Self { place, reason, error: None }
    }

    pub(crate) fn error(error: ErrorCode) -> Self {
        Self { place: None, reason: Reason::Error, error: Some(error) }
    }
}

impl Entry {
    /// Evaluates the flag. Never fails, never waits.
    #[inline]
    pub(crate) fn decide<'a, T: Trace<'a>>(
        &'a self,
        snapshot: &'a Snapshot,
        cx: &'a Context<'a>,
        trace: &mut T,
    ) -> Decision {
        let flag = &*self.flag;
        if self.overlay.is_some() || !self.requires.is_empty() {
            return self.decide_with_overlay(snapshot, cx, trace);
        }
        match &flag.state {
            State::Enabled => {
                let (index, reason) = match choose(flag, snapshot, cx, trace) {
                    Ok(chosen) => chosen,
                    Err(error) => return Decision::error(error),
                };
                Decision::new(index.map(Place::Variant), reason)
            }
            State::Disabled => Decision::new(None, Reason::Disabled),
            State::Broken(_) => Decision::error(ErrorCode::ParseError),
        }
    }

    /// Out of the way of the usual flag, which has none of this.
    #[inline(never)]
    fn decide_with_overlay<'a, T: Trace<'a>>(
        &'a self,
        snapshot: &'a Snapshot,
        cx: &'a Context<'a>,
        trace: &mut T,
    ) -> Decision {
        let flag = &*self.flag;
        let overlay = self.overlay.as_deref();
        if overlay.is_some_and(|overlay| overlay.value.is_some()) {
            return Decision::new(Some(Place::Override), Reason::Override);
        }
        let broken = matches!(flag.state, State::Broken(_));
        if broken || overlay.is_some_and(|overlay| overlay.broken.is_some()) {
            return Decision::error(ErrorCode::ParseError);
        }
        if matches!(flag.state, State::Disabled) {
            return Decision::new(None, Reason::Disabled);
        }
        for (index, variant) in &self.requires {
            let met = snapshot.entry_at(*index).is_some_and(|required| {
                let decision = required.decide(snapshot, cx, &mut crate::targeting::NoTrace);
                decision.place.and_then(|place| required.variant(place)).is_some_and(|found| match variant {
                    Some(name) => found.name() == &**name,
                    None => found.as_bool() == Some(true),
                })
            });
            if !met {
                return Decision::new(None, Reason::Prerequisite);
            }
        }
        let (index, reason) = match choose(flag, snapshot, cx, trace) {
            Ok(chosen) => chosen,
            Err(error) => return Decision::error(error),
        };
        let Some(index) = index else { return Decision::new(None, reason) };
        let held =
            overlay.and_then(|overlay| overlay.ceiling.as_ref()).and_then(|held| held.get(index as usize));
        match held {
            Some(held) if *held != index => Decision::new(Some(Place::Variant(*held)), Reason::Guard),
            _ => Decision::new(Some(Place::Variant(index)), reason),
        }
    }
}

#[inline]
fn choose<'a, T: Trace<'a>>(
    flag: &'a CompiledFlag,
    snapshot: &'a Snapshot,
    cx: &'a Context<'a>,
    trace: &mut T,
) -> Result<(Option<u32>, Reason), ErrorCode> {
    let by_rule = flag.targeting.is_some();
    if let Some(node) = &flag.targeting {
        let scope = Scope {
            data: Data::Context(cx),
            flag_key: &flag.key,
            clock: snapshot.clock(),
            variants: &flag.variants,
        };
        match (Run { scope, trace }).land(node) {
            Landing::Variant(index) => return Ok((Some(index), Reason::TargetingMatch)),
            Landing::Nowhere => return Err(ErrorCode::General),
            Landing::Default => {}
        }
    }
    if let Some(ramp) = &flag.ramp
        && let Some(index) = ramp.land(cx, snapshot.clock())
    {
        return Ok((Some(index), Reason::TargetingMatch));
    }
    let reason = if by_rule || flag.ramp.is_some() || flag.default.is_none() {
        Reason::Default
    } else {
        Reason::Static
    };
    Ok((flag.default, reason))
}
