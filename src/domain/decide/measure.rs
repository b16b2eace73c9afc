//! What a change is measured against: the content that the edit began from, and whether others changed the record since.

use crate::domain::change::{Base, Edit, Position};
use crate::domain::record::Content;

use super::{Given, Sent};

/// What the change is measured against.
pub(super) struct Measure<'a> {
    /// Content that the edit began from; `None`: unknown.
    pub(super) base: Option<&'a Content>,
    /// Somebody else changed the record since.
    pub(super) others: bool,
    /// The base is not in the history.
    pub(super) gap: bool,
    /// The request's cursor does not tell what the edit began from.
    pub(super) unknown: bool,
    /// An older edit arrives after the device's own newer one.
    pub(super) late: bool,
}

pub(super) static NOTHING: std::sync::LazyLock<Content> = std::sync::LazyLock::new(Content::default);

pub(super) fn measure<'a>(given: &Given<'a>) -> Measure<'a> {
    let Given { change, lineage, last_sent, .. } = *given;
    let exact = matches!(change.base, Base::Hash(_) | Base::Data(_));
    let old = lineage.above.last().is_some_and(|v| v.received_at < given.horizon);
    let bottomless = lineage.gap || (lineage.base.is_none() && old && matches!(change.base, Base::Absent | Base::Nothing));
    let gap = bottomless && !matches!(change.base, Base::Data(_));
    let others = gap || lineage.above.iter().any(|v| exact || !v.own);
    let deletes = change.edit == Edit::Delete;
    let unknown = change.base == Base::Absent && !deletes && {
        let (seq, finished) = match given.position {
            Position::Presented { seq, finished } => (seq, finished),
            Position::Remembered { seq } => (seq, true),
            Position::Never => (0, true),
        };
        !finished || lineage.above.iter().any(|v| !v.own || !v.clean) || last_sent.is_some_and(|sent| sent.seq > seq && !sent.clean)
    };
    let unknown = unknown && given.current.is_some();
    let mut measure = Measure { base: None, others, gap, unknown, late: false };
    if given.current.is_none() || unknown {
        return measure;
    }
    let began = lineage.base.as_ref().map_or(0, |base| base.version);
    let began = if let Base::Version(n) = change.base { n } else { began };
    // Who begins from nothing over a record that somebody else made is not known to have it, though it once sent the same.
    let others_work = |sent: &&Sent| sent.clean && lineage.above.iter().any(|v| v.version == sent.version && !v.own);
    let newer = last_sent.filter(|sent| !exact && sent.version > began && !(change.base == Base::Nothing && others_work(sent)));
    measure.late = newer.is_some_and(|sent| given.derived && change.updated_at.is_some_and(|at| at < sent.updated_at));
    if deletes {
        return measure;
    }
    measure.base = match (&change.base, newer.and_then(|sent| sent.content.as_ref())) {
        (Base::Data(content), _) => Some(content),
        (Base::Hash(_), _) => lineage.base.as_ref().map(|base| &base.content),
        (_, Some(sent)) => Some(sent),
        _ => match &lineage.base {
            Some(base) => Some(&base.content),
            None if gap => None,
            None => Some(&*NOTHING),
        },
    };
    measure
}
