//! What the collector of the metrics library leaves out of a process: how much address space it may take, and the traffic of its network.

use std::fs;

use super::Text;

/// What stands for no limit, as in other exporters: the largest number of bytes that the kernel can name.
const UNLIMITED: f64 = 1.844_674_407_370_955_2e19;

/// Writes its families; where the kernel does not tell, none.
pub(super) fn write(text: &mut Text) {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(bytes) = address_space(&limits) {
        text.family("process_virtual_memory_max_bytes").add(&[], bytes);
    }
    let counters = fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    if let Some((received, sent)) = traffic(&counters) {
        text.family("process_network_receive_bytes_total").add(&[], received);
        text.family("process_network_transmit_bytes_total").add(&[], sent);
    }
}

/// The soft limit of `/proc/<pid>/limits`.
fn address_space(limits: &str) -> Option<f64> {
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    match limit.split_whitespace().next()? {
        "unlimited" => Some(UNLIMITED),
        bytes => bytes.parse().ok(),
    }
}

/// Received and sent bytes of `/proc/<pid>/net/netstat`, which has a line of names before each line of numbers.
fn traffic(counters: &str) -> Option<(f64, f64)> {
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let of = |wanted: &str| -> Option<f64> {
        let mut all = names.split_whitespace().zip(numbers.split_whitespace());
        all.find(|(name, _)| *name == wanted)?.1.parse().ok()
    };
    Some((of("InOctets")?, of("OutOctets")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_counts() {
        let limits = |soft: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max file size             unlimited            unlimited            bytes\n\
                 Max address space         {soft}           unlimited            bytes\n"
            )
        };
        assert_eq!(address_space(&limits("1073741824")), Some(1_073_741_824.0));
        assert_eq!(address_space(&limits("unlimited")), Some(UNLIMITED));
        assert_eq!(address_space("nothing of this kind"), None);
    }

    #[test]
    fn bytes_are_found_by_their_names() {
        let counters = "TcpExt: InOctets OutOctets\nTcpExt: 1 2\nIpExt: Other InOctets OutOctets\nIpExt: 0 34 56\n";
        assert_eq!(traffic(counters), Some((34.0, 56.0)));
        assert_eq!(traffic("IpExt: InOctets\nIpExt: 34\n"), None);
        assert_eq!(traffic(""), None);
    }

    #[test]
    fn this_process_is_told_of() {
        let mut text = Text::default();
        write(&mut text);
        let text = text.finish();
        for name in [
            "process_virtual_memory_max_bytes ",
            "process_network_receive_bytes_total ",
            "process_network_transmit_bytes_total ",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "no {name} in\n{text}");
        }
    }
}
