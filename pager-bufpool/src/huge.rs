//! How much of a range of memory the kernel keeps in huge pages, as `/proc/self/smaps` has it (proc(5)).

use std::fs;
use std::ops::Range;

/// Bytes of `range` in huge pages; `None` where the system does not tell. Reads a line or two for each
/// mapping of the process.
pub(crate) fn bytes_in(range: Range<usize>) -> Option<u64> {
    in_smaps(&fs::read_to_string("/proc/self/smaps").ok()?, range)
}

fn in_smaps(smaps: &str, range: Range<usize>) -> Option<u64> {
    let mut found = None;
    // What of the mapping that the lines are about lies in the range.
    let mut common = 0;
    for line in smaps.lines() {
        if let Some(rest) = line.strip_prefix("AnonHugePages:") {
            let kib: u64 = rest.trim().trim_end_matches("kB").trim_end().parse().ok()?;
            if common > 0 {
                // The kernel may have merged the mapping with a neighbour that is not ours.
                *found.get_or_insert(0) += (kib * 1024).min(common);
            }
        } else if let Some(mapping) = addresses(line) {
            let (start, end) = (mapping.start.max(range.start), mapping.end.min(range.end));
            common = end.saturating_sub(start) as u64;
        }
    }
    found
}

/// The addresses in a line that begins a mapping: "7f00-7f10 rw-p 00000000 00:00 0".
fn addresses(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let parse = |text| usize::from_str_radix(text, 16).ok();
    Some(parse(start)?..parse(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_of_the_mappings_in_a_range_are_added_up_and_no_others() {
        let smaps = "\
200000-400000 rw-p 00000000 00:00 0
Rss:                2048 kB
AnonHugePages:      2048 kB
400000-a00000 rw-p 00000000 00:00 0
AnonHugePages:      4096 kB
THPeligible:           1
a00000-b00000 rw-p 00000000 00:00 0                      [anon: a-b]
AnonHugePages:         0 kB
c00000-e00000 rw-p 00000000 00:00 0
AnonHugePages:      2048 kB
";
        assert_eq!(in_smaps(smaps, 0x40_0000..0xb0_0000), Some(4 << 20));
        assert_eq!(in_smaps(smaps, 0x30_0000..0xb0_0000), Some(5 << 20));
        assert_eq!(in_smaps(smaps, 0xb0_0000..0xc0_0000), None);
    }
}
