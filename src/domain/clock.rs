//! Times: a device's clock corrected by the server's, and the one text form that the server writes.
//!
//! A time is microseconds since 1970-01-01T00:00:00Z. Nothing here reads a clock.

use chrono::DateTime;

/// Microseconds since the epoch of Unix.
pub type Micros = i64;

/// Microseconds of a day.
pub const DAY: Micros = 86_400_000_000;

/// Reads an RFC 3339 time of any precision and zone. Years outside 1..=9999 are refused, since they cannot be written back.
pub fn parse(text: &str) -> Option<Micros> {
    let time = DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros();
    (YEAR_1..YEAR_10000).contains(&time).then_some(time)
}

const YEAR_1: Micros = -62_135_596_800_000_000;
const YEAR_10000: Micros = 253_402_300_800_000_000;

/// `2025-12-18T11:00:00.000000Z`. Days to a civil date by the algorithm of H. Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms" (2013), `civil_from_days`; a pull writes one for every record, hence not a general formatter.
pub fn write(out: &mut Vec<u8>, time: Micros) {
    let time = time.clamp(YEAR_1, YEAR_10000 - 1);
    let (days, rest) = (time.div_euclid(DAY), time.rem_euclid(DAY));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);

    let mut text = *b"0000-00-00T00:00:00.000000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], seconds / 3600);
    digits(&mut text[14..16], seconds / 60 % 60);
    digits(&mut text[17..19], seconds % 60);
    digits(&mut text[20..26], micros);
    out.extend_from_slice(&text);
}

fn digits(place: &mut [u8], mut number: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The text form of a time.
pub fn text(time: Micros) -> String {
    let mut out = Vec::with_capacity(27);
    write(&mut out, time);
    String::from_utf8_lossy(&out).into_owned()
}

/// The offset of a device's clock: what to add to its times. `sent` is its clock when it sent, by its own word.
pub fn offset(now: Micros, sent: Option<Micros>) -> Micros {
    sent.map_or(0, |sent| now - sent)
}

/// A device's `updated_at` on the server's clock, never later than now.
pub fn correct(updated_at: Option<Micros>, offset: Micros, now: Micros) -> Micros {
    updated_at.map_or(now, |at| at.saturating_add(offset).min(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text_ in [
            "1970-01-01T00:00:00.000000Z",
            "2000-02-29T23:59:59.999999Z",
            "2025-12-18T11:00:00.123456Z",
            "1969-12-31T23:59:59.000001Z",
            "0001-01-01T00:00:00.000000Z",
            "9999-12-31T23:59:59.999999Z",
            "2100-03-01T00:00:00.000000Z",
        ] {
            assert_eq!(text(parse(text_).unwrap()), text_);
        }
        assert_eq!(parse("2025-12-18T13:00:00+02:00"), parse("2025-12-18T11:00:00Z"));
        assert_eq!(parse("2025-12-18T11:00:00.1234567891Z").map(text).unwrap(), "2025-12-18T11:00:00.123456Z");
        for bad in ["", "now", "2025-12-18", "2025-13-18T11:00:00Z", "0000-01-01T00:00:00Z"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_clock_two_hours_ahead() {
        let (now, hour) = (1_000 * DAY, DAY / 24);
        let offset = offset(now, Some(now + 2 * hour));
        assert_eq!(correct(Some(now + hour), offset, now), now - hour);
        assert_eq!(correct(Some(now + 5 * hour), offset, now), now, "never later than now");
        assert_eq!(correct(None, offset, now), now);
        assert_eq!(correct(Some(7), super::offset(now, None), now), 7);
    }
}
