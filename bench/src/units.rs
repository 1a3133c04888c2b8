//! Numbers as people write and read them.

use crate::error::{Error, Result};

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;

/// Reads `64MiB`, `1G`, `4096` or `512k` as bytes. `K`, `M`, `G` and `T` are powers of 1024.
///
/// # Errors
/// [`Error::BadOption`] for anything else.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let bad = || {
        Error::bad_option(
            text,
            "a size is a number with or without KiB, MiB, GiB or TiB",
        )
    };
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let unit = text[digits..].trim().to_ascii_lowercase();
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// `bytes` in the largest binary unit that keeps three digits: `64 MiB`, `1.5 GiB`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or("B");
    for larger in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{} {unit}", three_digits(value))
}

/// A duration given in nanoseconds, with three digits: `850 ns`, `72.5 µs`, `8.31 ms`.
pub fn ns(ns: f64) -> String {
    match ns {
        x if x < 1e3 => format!("{} ns", three_digits(x)),
        x if x < 1e6 => format!("{} µs", three_digits(x / 1e3)),
        x if x < 1e9 => format!("{} ms", three_digits(x / 1e6)),
        x => format!("{} s", three_digits(x / 1e9)),
    }
}

/// A count with three digits: `117`, `11.1 k`, `1.25 M`.
pub fn count(value: f64) -> String {
    match value {
        x if x < 1e4 => three_digits(x),
        x if x < 1e6 => format!("{} k", three_digits(x / 1e3)),
        x if x < 1e9 => format!("{} M", three_digits(x / 1e6)),
        x => format!("{} G", three_digits(x / 1e9)),
    }
}

/// Three significant digits, but never fewer than the whole part has: `0.95`, `11.1`, `1234`.
pub fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        x if x >= 100.0 => 0,
        x if x >= 10.0 => 1,
        x if x >= 0.001 || x == 0.0 => 2,
        _ => 4,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Seconds since 1970 as `2026-01-31T23-59-59Z`, which sorts by time and is a good file name.
pub fn utc_file_name(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Days to a date, in eras of 400 years that begin in March: the leap day comes last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_units() {
        let read = |text| parse_bytes(text).unwrap();
        assert_eq!(read("4096"), 4096);
        assert_eq!(read("64MiB"), 64 << 20);
        assert_eq!(read("64 mib"), 64 << 20);
        assert_eq!(read("512k"), 512 << 10);
        assert_eq!(read("1G"), 1 << 30);
        assert_eq!(read("2TB"), 2 << 40);
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "MiB",
            "-1",
            "1.5G",
            "7 apples",
            "99999999999999999999",
            "99999999T",
        ] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(bytes(64 << 20), "64 MiB");
        assert_eq!(bytes(1_610_612_736), "1.5 GiB");
        assert_eq!(ns(72_450.0), "72.5 µs");
        assert_eq!(ns(8_312_000.0), "8.31 ms");
        assert_eq!(count(117.3), "117");
        assert_eq!(count(11_100.0), "11.1 k");
        assert_eq!(three_digits(0.954), "0.95");
        assert_eq!(three_digits(0.0), "0");
        assert_eq!(three_digits(120.0), "120");
    }

    #[test]
    fn a_time_becomes_a_file_name_in_utc() {
        assert_eq!(utc_file_name(0), "1970-01-01T00-00-00Z");
        assert_eq!(utc_file_name(951_827_696), "2000-02-29T12-34-56Z");
        assert_eq!(utc_file_name(1_767_225_599), "2025-12-31T23-59-59Z");
    }
}
