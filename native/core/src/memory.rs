//! Giving memory back. A process that was busy once, at its start or after a large answer, keeps much of what it used.

/// Unmaps the pages of program code that were needed so far, and trims the heap. Code comes back page by page from the
/// page cache as it is used again, which for an agent at rest is a third of it. Returns the number of mappings let go.
///
/// Only mappings that are executable and never writable are touched: they hold nothing but what is in their file.
pub fn release() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let released = maps
        .lines()
        .filter_map(code_of_a_file)
        .filter(|&(start, length)| unsafe { libc::madvise(start as *mut _, length, libc::MADV_DONTNEED) } == 0)
        .count();
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    released
}

/// Start and length of a private mapping of a file's code.
fn code_of_a_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?;
    if permissions != "r-xp" || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_let_go() {
        let line = "0074a000-00751000 r-xp 0034a000 fe:00 8431 /usr/bin/node";
        assert_eq!(code_of_a_file(line), Some((0x74a000, 0x7000)));
        for line in [
            "03201000-06b51000 r--p 02e01000 fe:00 8431 /usr/bin/node",
            "0e322000-0ed30000 rw-p 00000000 00:00 0 [heap]",
            "7ffd0000-7ffd2000 r-xp 00000000 00:00 0 [vdso]",
            "7f000000-7f001000 rwxp 00000000 00:00 0",
            "7f000000-7f001000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code_of_a_file(line), None, "{line}");
        }
    }

    #[test]
    fn the_program_runs_on_without_its_pages() {
        assert!(release() > 0);
        assert_eq!((1..=10).sum::<i32>(), 55);
    }
}
