//! Points in time, passed in by the host: the core never reads a clock.

/// Days from the first of March of the year 0 to the first of January 1970, counted as above, and one.
const DAYS_UNTIL_1970: u64 = 719_469;

/// Milliseconds since the Unix epoch, by the host's clock.
///
/// All arithmetic saturates: a clock that jumps never makes it panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A point that does not come.
    pub const NEVER: Self = Self(u64::MAX);

    /// The point `milliseconds` after the Unix epoch.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// The point `seconds` after the Unix epoch, as JWT's NumericDate has it (RFC 7519 section 2).
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// The point that a date of RFC 9110 section 5.6.7 names, in any of its three forms: `Sun, 06 Nov 1994 08:49:37
    /// GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`. By hand, for the library that tests
    /// hold it against costs 1 kB of wasm.
    pub fn from_http_date(text: &str) -> Option<Self> {
        let month_of =
            |part: &str| b"JanFebMarAprMayJunJulAugSepOctNovDec".chunks(3).position(|month| month == part.as_bytes());
        let parts = text.split([' ', ':', '-', ',']).filter(|part| !part.is_empty()).skip(1);
        let numbers: Vec<u64> = parts
            .filter(|part| *part != "GMT")
            .map_while(|part| month_of(part).map(|place| place as u64).or_else(|| part.parse().ok()))
            .collect();
        let month_stands_first = text.split(' ').nth(1).is_some_and(|part| month_of(part).is_some());
        let (day, month, year, hour, minute, second) = match (numbers.as_slice(), month_stands_first) {
            (&[month, day, hour, minute, second, year], true) => (day, month, year, hour, minute, second),
            (&[day, month, year, hour, minute, second], false) => (day, month, year, hour, minute, second),
            _ => return None,
        };
        let year = match year {
            0..70 => year.saturating_add(2000),
            70..100 => year.saturating_add(1900),
            _ => year,
        };
        Self::from_date(year, month.checked_add(1)?, [day, hour, minute, second])
    }

    /// The point of a date in UTC: year, month from 1, and day, hour, minute, second.
    pub(crate) fn from_date(year: u64, month: u64, [day, hour, minute, second]: [u64; 4]) -> Option<Self> {
        if day > 31
            || !(1..=12).contains(&month)
            || !(1970..10_000).contains(&year)
            || hour > 23
            || minute > 59
            || second > 60
        {
            return None;
        }
        // Years begin in March here, so that the leap day is a year's last. All numbers are small.
        #[allow(clippy::arithmetic_side_effects, reason = "each was bounded above")]
        let days = {
            let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
            year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day
        };
        let hours = days.checked_sub(DAYS_UNTIL_1970)?.saturating_mul(24).saturating_add(hour);
        let minutes = hours.saturating_mul(60).saturating_add(minute);
        Some(Self::from_secs(minutes.saturating_mul(60).saturating_add(second)))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This point, `milliseconds` later.
    #[must_use]
    pub const fn plus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// This point, `milliseconds` earlier.
    #[must_use]
    pub const fn minus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_sub(milliseconds))
    }

    /// Milliseconds from `now` until this point; 0 where it has passed.
    pub const fn after(self, now: Self) -> u64 {
        self.0.saturating_sub(now.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::Timestamp;

    proptest! {
        #[test]
        fn a_date_is_read_as_the_library_writes_it(seconds in 0_u64..200_000_000_000) {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            prop_assert_eq!(Timestamp::from_http_date(&text), Some(Timestamp::from_secs(seconds)), "{}", text);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,40}", date in "[A-Z][a-z]{2}, [0-9]{1,20} [A-Za-z]{3} [0-9]{1,20} [0-9:]{0,30} GMT") {
            let _ = (Timestamp::from_http_date(&text), Timestamp::from_http_date(&date));
        }
    }

    #[test]
    fn the_date_of_the_standard_is_read_and_what_is_none_is_not() {
        let read = |text| Timestamp::from_http_date(text).map(|instant| instant.as_millis() / 1000);
        for form in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(read(form), Some(784_111_777), "{form}");
        }
        for wrong in
            ["", "soon", "-1", "Sun, 32 Nov 1994 08:49:37 GMT", "Sun, 06 Now 1994 08:49:37 GMT", "Sun, 06 Nov 1994"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
