//! Texts merged line by line: what one side alone changed is taken, and where both changed the same lines both are kept.

use std::collections::HashMap;
use std::ops::Range;

use similar::{Algorithm, capture_diff_slices};

/// Differing lines of one side beyond which a text is compared as one block, so that a comparison stays cheap: its cost grows
/// with the product of both sides.
const LINES: usize = 1_000;

/// The server's text with the client's changes since the base. Merging the same change again changes nothing: a text that has
/// the change is left alone, and what comes out always has it. (So of a line that occurs several times, a copy that one side
/// removed may stay.)
pub(super) fn merge(base: &str, client: &str, server: &str) -> String {
    let (base, client, server): (Vec<&str>, Vec<&str>, Vec<&str>) = (lines(base), lines(client), lines(server));
    if has(&base, &client, &server) {
        return server.join("\n");
    }
    let merged = by_place(&base, &client, &server);
    let merged = if has(&base, &client, &merged) { merged } else { by_line(&base, &client, &server) };
    // Where what came out is by chance what it was before both edits, the same change again would count as the only one.
    if merged == base { client } else { merged }.join("\n")
}

/// Does a text have the client's change? No old line that the client removed is in it, of each line as many copies as the
/// client added up to, and the client's lines stand in their order, but for old ones that are gone and for copies, of which
/// nobody can say which is which.
fn has(base: &[&str], client: &[&str], text: &[&str]) -> bool {
    let (old, ours, there) = (counts(base), counts(client), counts(text));
    let of = |counts: &HashMap<&str, usize>, line: &str| counts.get(line).copied().unwrap_or(0);
    if text.iter().any(|line| old.contains_key(line) && !ours.contains_key(line)) {
        return false;
    }
    let added = |(line, count): (&&str, &usize)| {
        let (before, now) = (of(&old, line), of(&there, line));
        *count <= before || now >= *count || (before > 0 && now == 0)
    };
    let single = |line: &&&str| of(&ours, line) == 1 && of(&there, line) == 1 && of(&old, line) <= 1;
    let mut rest = text.iter();
    ours.iter().all(added) && client.iter().filter(single).all(|line| rest.any(|other| other == line))
}

fn counts<'a>(lines: &[&'a str]) -> HashMap<&'a str, usize> {
    let mut counts = HashMap::new();
    for line in lines {
        *counts.entry(*line).or_insert(0) += 1;
    }
    counts
}

/// The server's lines, and between them the client's, without old lines that the other side no longer has: where repeated
/// lines leave it open what stands where.
fn by_line<'a>(base: &[&'a str], client: &[&'a str], server: &[&'a str]) -> Vec<&'a str> {
    let (old, ours, theirs) = (counts(base), counts(client), counts(server));
    let (mut out, mut at) = (Vec::new(), 0);
    let stays = |line: &&&str, other: &HashMap<&str, usize>| !old.contains_key(**line) || other.contains_key(**line);
    for hunk in hunks(server, client) {
        out.extend(&server[at..hunk.base.start]);
        out.extend(server[hunk.base.clone()].iter().filter(|line| stays(line, &ours)));
        out.extend(client[hunk.side].iter().filter(|line| stays(line, &theirs)));
        at = hunk.base.end;
    }
    out.extend(&server[at..]);
    out
}

/// Place by place of the base: what one side alone changed is taken, and where both changed it both are kept.
fn by_place<'a>(base: &[&'a str], client: &[&'a str], server: &[&'a str]) -> Vec<&'a str> {
    let (ours, theirs) = (hunks(base, client), hunks(base, server));
    let mut out: Vec<&str> = Vec::with_capacity(server.len() + 8);
    let (mut at, mut i, mut j) = (0, 0, 0);
    while i < ours.len() || j < theirs.len() {
        let first = match (ours.get(i), theirs.get(j)) {
            (Some(a), Some(b)) => &if starts_before(b, a) { b } else { a }.base,
            (Some(hunk), None) | (None, Some(hunk)) => &hunk.base,
            (None, None) => break,
        };
        // Everything that touches the same lines of the base, on either side, is one place.
        let mut place = first.clone();
        let (from_i, from_j) = (i, j);
        loop {
            let before = (i, j);
            while ours.get(i).is_some_and(|hunk| touches(&place, &hunk.base)) {
                place = place.start.min(ours[i].base.start)..place.end.max(ours[i].base.end);
                i += 1;
            }
            while theirs.get(j).is_some_and(|hunk| touches(&place, &hunk.base)) {
                place = place.start.min(theirs[j].base.start)..place.end.max(theirs[j].base.end);
                j += 1;
            }
            if (i, j) == before {
                break;
            }
        }
        out.extend(&base[at..place.start]);
        at = place.end;
        let mine = apply(base, &place, client, &ours[from_i..i]);
        let others = apply(base, &place, server, &theirs[from_j..j]);
        let began = &base[place];
        // What the client wrote around the others' words stands for both, unless it has lines that they removed.
        let around = within(&others, &mine) && mine.iter().all(|line| !began.contains(line) || others.contains(line));
        if others == began || around {
            out.extend(mine);
        } else {
            // What the client wrote stands behind it, unless it is there already.
            let mut rest = &others[..];
            let there = ours[from_i..i].iter().all(|hunk| {
                let found = position(&client[hunk.side.clone()], rest);
                rest = found.map_or(&[], |at| &rest[at..]);
                found.is_some()
            });
            out.extend(&others);
            if !there && mine != began {
                out.extend(ours[from_i..i].iter().flat_map(|hunk| &client[hunk.side.clone()]));
            }
        }
    }
    out.extend(&base[at..]);
    out
}

fn lines(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split('\n').collect() }
}

/// Lines of the base, and the lines that a side has in their place.
struct Hunk {
    base: Range<usize>,
    side: Range<usize>,
}

fn starts_before(one: &Hunk, other: &Hunk) -> bool {
    (one.base.start, one.base.end) < (other.base.start, other.base.end)
}

/// Do two places share lines, or does one insert where the other inserts too?
fn touches(one: &Range<usize>, other: &Range<usize>) -> bool {
    if one.is_empty() && other.is_empty() {
        return one.start == other.start;
    }
    one.start < other.end && other.start < one.end
}

fn hunks(base: &[&str], side: &[&str]) -> Vec<Hunk> {
    let head = base.iter().zip(side).take_while(|(a, b)| a == b).count();
    let tail = base[head..].iter().rev().zip(side[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&base[head..base.len() - tail], &side[head..side.len() - tail]);
    if old.is_empty() && new.is_empty() {
        return Vec::new();
    }
    if old.len() > LINES || new.len() > LINES {
        return vec![Hunk { base: head..head + old.len(), side: head..head + new.len() }];
    }
    let mut hunks: Vec<Hunk> = Vec::new();
    for op in capture_diff_slices(Algorithm::Myers, old, new) {
        let (tag, was, is) = op.as_tag_tuple();
        if tag == similar::DiffTag::Equal {
            continue;
        }
        let (was, is) = (was.start + head..was.end + head, is.start + head..is.end + head);
        match hunks.last_mut() {
            Some(last) if last.base.end == was.start && last.side.end == is.start => {
                (last.base.end, last.side.end) = (was.end, is.end);
            }
            _ => hunks.push(Hunk { base: was, side: is }),
        }
    }
    hunks
}

/// The lines of a place as one side has them.
fn apply<'a>(base: &[&'a str], place: &Range<usize>, side: &[&'a str], hunks: &[Hunk]) -> Vec<&'a str> {
    let (mut out, mut at) = (Vec::new(), place.start);
    for hunk in hunks {
        out.extend(&base[at..hunk.base.start]);
        out.extend(&side[hunk.side.clone()]);
        at = hunk.base.end;
    }
    out.extend(&base[at..place.end]);
    out
}

/// Do these lines stand in the others, together and in this order?
fn within(few: &[&str], many: &[&str]) -> bool {
    !few.is_empty() && position(few, many).is_some()
}

/// Where these lines end in the others, if they stand there together and in this order.
fn position(few: &[&str], many: &[&str]) -> Option<usize> {
    if few.is_empty() {
        return Some(0);
    }
    many.windows(few.len()).position(|lines| lines == few).map(|start| start + few.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_by_line() {
        for (base, client, server, expected) in [
            ("a\nb\nc", "A\nb\nc", "a\nb\nC", "A\nb\nC"),
            ("a\nb", "A\nb", "a\nB", "A\nB"),
            ("a\nb\nc", "a\nc", "a\nb\nc\nd", "a\nc\nd"),
            ("a", "mine", "theirs", "theirs\nmine"),
            ("", "mine", "theirs", "theirs\nmine"),
            ("", "same", "same", "same"),
            ("a\n", "a\nmine\n", "a\ntheirs\n", "a\ntheirs\nmine\n"),
            ("a\nb", "a\nx\nb", "a\ny\nb", "a\ny\nx\nb"),
            ("a\nb", "x\na\nb", "a\nB", "x\na\nB"),
            // Both removed a line, one of them something more.
            ("a\nb\nc", "a\nc", "a", "a"),
            // Removed here, changed there: what was written stays.
            ("a\nb\nc", "a\nc", "a\nB\nc", "a\nB\nc"),
            ("a\nb", "a\nb", "c", "c"),
            ("a\nb", "c", "a\nb", "c"),
            ("x", "", "y", "y"),
            // One side's change is in what came of both, whoever brings it again.
            ("c\nc", "c\nc\nb", "b\nc\nb", "b\nc\nb"),
            ("d\nc\nb\n", "d\nc\ny", "d\nc\nx\ny", "d\nc\nx\ny"),
            // Copies of a line, of which each side removed another one.
            ("c\nb\nc\nd\nb", "b\nc\nd\nb", "c\nc\nd\nb", "c\nc\nd\nb"),
        ] {
            assert_eq!(merge(base, client, server), expected, "{base:?} {client:?} {server:?}");
            let once = merge(base, client, server);
            assert_eq!(merge(base, client, &once), once, "again: {base:?} {client:?} {server:?}");
        }
    }

    #[test]
    fn a_long_text_is_one_block() {
        let long = |word: &str| vec![word; LINES + 1].join("\n");
        let merged = merge(&long("a"), &long("b"), &long("c"));
        assert_eq!(merged, format!("{}\n{}", long("c"), long("b")));
    }

    #[test]
    fn merging_again_changes_nothing() {
        let mut seed = 7_u64;
        let mut dice = |sides: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % sides
        };
        for _ in 0..30_000 {
            let mut text = |most: u64| (0..dice(most)).map(|_| ["a", "b", "c", "d", ""][dice(5) as usize]).collect::<Vec<_>>();
            let base = text(7);
            let mut edit = |base: &[&'static str]| {
                let mut lines = base.to_vec();
                for _ in 0..1 + dice(2) {
                    let at = dice(lines.len() as u64 + 1) as usize;
                    let end = (at + dice(3) as usize).min(lines.len());
                    let new: Vec<&str> = (0..dice(3)).map(|_| ["a", "b", "x", "y", ""][dice(5) as usize]).collect();
                    lines.splice(at..end, new);
                }
                lines.join("\n")
            };
            let (client, server) = (edit(&base), edit(&base));
            let base = base.join("\n");
            let once = merge(&base, &client, &server);
            assert_eq!(merge(&base, &client, &once), once, "base {base:?} client {client:?} server {server:?}");
            // What either side wrote and the base did not have is never lost.
            let (old, all) = (lines(&base), lines(&once));
            for line in lines(&client).iter().chain(&lines(&server)) {
                assert!(
                    line.is_empty() || old.contains(line) || all.contains(line),
                    "{line:?}: base {base:?} client {client:?} server {server:?} → {once:?}"
                );
            }
        }
    }
}
