//! Memory, worker and WAL settings derived from what the pools of a shard get.

use std::collections::BTreeMap;

use crate::api::v1alpha1::{ContainerConfig, PoolSpec};
use crate::quantity::Quantity;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Beyond this the settings would leave the bounds of the server.
const MAX_MEMORY: u64 = 16 * 1024 * GIB;
/// Connections that work memory is divided by; the value of the baseline.
const MAX_CONNECTIONS: u64 = 60;
/// Segment size of `initdb` when its arguments do not set one, in MB.
const DEFAULT_SEGMENT: u64 = 16;

/// What the sizing is computed from; zero means unknown and keeps the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Basis {
    /// Bytes of memory: the largest limit, else request, of the shard's postgres containers.
    pub memory: u64,
    /// Thousandths of a core: the largest limit, else request, of the shard's postgres containers.
    pub cpu: u64,
    /// Bytes of disk: the smallest data volume of the shard.
    pub disk: u64,
    /// WAL segment size in MB.
    pub segment: u64,
}

impl Default for Basis {
    fn default() -> Self {
        Self { memory: 0, cpu: 0, disk: 0, segment: DEFAULT_SEGMENT }
    }
}

/// The basis of a shard: what its pools get, and the segment size that its `initdb` arguments ask for.
///
/// Quantities that cannot be read count as unknown; validation refuses them.
pub fn basis(pools: &BTreeMap<String, PoolSpec>, initdb_args: Option<&str>) -> Basis {
    let amount = |text: &str| text.parse::<Quantity>().ok().filter(|amount| !amount.is_negative());
    let granted = |pool: &PoolSpec, resource: &str| {
        let resources = pool.postgres.as_ref().and_then(|ContainerConfig { resources, .. }| resources.as_ref())?;
        let of = |map: &Option<BTreeMap<String, _>>| {
            map.as_ref().and_then(|map| map.get(resource)).and_then(|wire| Quantity::try_from(wire).ok())
        };
        of(&resources.limits).or_else(|| of(&resources.requests)).filter(|amount| !amount.is_negative())
    };
    let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
    let memory = pools.values().filter_map(|pool| granted(pool, "memory")).max();
    let cpu = pools.values().filter_map(|pool| granted(pool, "cpu")).max();
    let disk = pools.values().filter_map(|pool| amount(pool.storage.as_ref()?.size.as_deref()?)).min();
    Basis {
        memory: memory.map_or(0, |memory| unsigned(memory.value())),
        cpu: cpu.map_or(0, |cpu| unsigned(cpu.milli_value())),
        disk: disk.map_or(0, |disk| unsigned(disk.value())),
        segment: segment_of(initdb_args),
    }
}

/// The settings that depend on the size of the pools, as the configuration file spells them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizing {
    /// `max_worker_processes`
    pub max_worker_processes: u64,
    /// `max_parallel_workers`
    pub max_parallel_workers: u64,
    /// `max_parallel_workers_per_gather`
    pub max_parallel_workers_per_gather: u64,
    /// `max_parallel_maintenance_workers`
    pub max_parallel_maintenance_workers: u64,
    /// `shared_buffers`
    pub shared_buffers: String,
    /// `effective_cache_size`
    pub effective_cache_size: String,
    /// `maintenance_work_mem`
    pub maintenance_work_mem: String,
    /// `wal_buffers`
    pub wal_buffers: String,
    /// `work_mem`
    pub work_mem: String,
    /// `min_wal_size` in MB
    pub min_wal_size: u64,
    /// `max_wal_size` and `max_slot_wal_keep_size` in MB
    pub max_wal_size: u64,
    /// `wal_keep_size` in MB
    pub wal_keep_size: u64,
}

impl Sizing {
    /// The settings for the basis, in integer arithmetic.
    pub fn of(basis: Basis) -> Self {
        let mut sizing = Self::baseline();
        let cores = basis.cpu / 1000;
        if cores >= 4 {
            // Never below the baseline: a standby with fewer worker processes than its primary refuses to start.
            sizing.max_worker_processes = cores.max(sizing.max_worker_processes);
            sizing.max_parallel_workers = cores;
            sizing.max_parallel_workers_per_gather = cores / 2;
            sizing.max_parallel_maintenance_workers = (cores / 2).min(4);
        }
        if basis.memory > 0 {
            let memory = basis.memory.min(MAX_MEMORY);
            let shared = (memory / 4).max(128 * KIB);
            let gather = sizing.max_parallel_workers_per_gather.max(1);
            sizing.shared_buffers = size(shared);
            sizing.effective_cache_size = size(three_quarters(memory).max(128 * KIB));
            sizing.maintenance_work_mem = size((memory / 16).clamp(64 * KIB, 2 * GIB));
            sizing.wal_buffers = size((shared / 100 * 3 + shared % 100 * 3 / 100).clamp(32 * KIB, 16 * MIB));
            sizing.work_mem = size((memory.saturating_sub(shared) / (MAX_CONNECTIONS * 3) / gather).max(64 * KIB));
        }
        let segment = if (1..=1024).contains(&basis.segment) { basis.segment } else { DEFAULT_SEGMENT };
        let floor = 64.max(4 * segment);
        if basis.disk > 0 {
            let disk = basis.disk / MIB;
            sizing.max_wal_size = (disk / 4).clamp(floor, 4096);
            sizing.wal_keep_size = (disk / 8).clamp(32.max(segment), 1000.max(segment));
        }
        sizing.max_wal_size = sizing.max_wal_size.max(floor);
        if basis.disk > 0 || segment != DEFAULT_SEGMENT {
            let low = 32.max(2 * segment);
            sizing.min_wal_size = (sizing.max_wal_size / 4).clamp(low, 1024.max(low));
        }
        sizing
    }

    fn baseline() -> Self {
        Self {
            max_worker_processes: 6,
            max_parallel_workers: 2,
            max_parallel_workers_per_gather: 1,
            max_parallel_maintenance_workers: 1,
            shared_buffers: "64MB".to_owned(),
            effective_cache_size: "192MB".to_owned(),
            maintenance_work_mem: "16MB".to_owned(),
            wal_buffers: "1920kB".to_owned(),
            work_mem: "1092kB".to_owned(),
            min_wal_size: 80,
            max_wal_size: 1024,
            wal_keep_size: 1000,
        }
    }

    /// Name and value of each setting, in the order of the file.
    pub fn settings(&self) -> [(&'static str, String); 13] {
        let mb = |value: u64| format!("{value}MB");
        [
            ("shared_buffers", self.shared_buffers.clone()),
            ("effective_cache_size", self.effective_cache_size.clone()),
            ("maintenance_work_mem", self.maintenance_work_mem.clone()),
            ("work_mem", self.work_mem.clone()),
            ("wal_buffers", self.wal_buffers.clone()),
            ("max_worker_processes", self.max_worker_processes.to_string()),
            ("max_parallel_workers", self.max_parallel_workers.to_string()),
            ("max_parallel_workers_per_gather", self.max_parallel_workers_per_gather.to_string()),
            ("max_parallel_maintenance_workers", self.max_parallel_maintenance_workers.to_string()),
            ("min_wal_size", mb(self.min_wal_size)),
            ("max_wal_size", mb(self.max_wal_size)),
            ("wal_keep_size", mb(self.wal_keep_size)),
            ("max_slot_wal_keep_size", mb(self.max_wal_size)),
        ]
    }
}

/// The WAL segment size in MB that the arguments of `initdb` ask for, or the default.
pub fn segment_of(initdb_args: Option<&str>) -> u64 {
    let mut words = initdb_args.unwrap_or_default().split_whitespace();
    let mut segment = DEFAULT_SEGMENT;
    while let Some(word) = words.next() {
        let given = match word.strip_prefix("--wal-segsize") {
            Some("") => words.next(),
            Some(rest) => rest.strip_prefix('='),
            None => continue,
        };
        if let Some(Ok(value)) = given.map(|text| text.trim_matches(['"', '\'']).parse::<u64>())
            && (1..=1024).contains(&value)
        {
            segment = value;
        }
    }
    segment
}

fn three_quarters(value: u64) -> u64 {
    value / 4 * 3 + value % 4 * 3 / 4
}

/// The largest of GB, MB and kB that divides the size evenly after it is cut to kB.
fn size(bytes: u64) -> String {
    let kb = bytes / KIB;
    match kb {
        0 => "0kB".to_owned(),
        _ if kb.is_multiple_of(MIB) => format!("{}GB", kb / MIB),
        _ if kb.is_multiple_of(KIB) => format!("{}MB", kb / KIB),
        _ => format!("{kb}kB"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::{catalog, value};
    use super::*;

    fn summary(memory: u64, cpu: u64, disk: u64) -> String {
        let s = Sizing::of(Basis { memory, cpu, disk, segment: 16 });
        format!(
            "{} {} {} {} {} {},{},{},{} {},{},{}",
            s.shared_buffers,
            s.effective_cache_size,
            s.maintenance_work_mem,
            s.wal_buffers,
            s.work_mem,
            s.max_worker_processes,
            s.max_parallel_workers,
            s.max_parallel_workers_per_gather,
            s.max_parallel_maintenance_workers,
            s.min_wal_size,
            s.max_wal_size,
            s.wal_keep_size
        )
    }

    #[rstest]
    #[case(512 * MIB, 100, GIB, "128MB 384MB 32MB 3932kB 2184kB 6,2,1,1 64,256,128")]
    #[case(GIB, 2000, 10 * GIB, "256MB 768MB 64MB 7864kB 4369kB 6,2,1,1 640,2560,1000")]
    #[case(4 * GIB, 4000, 100 * GIB, "1GB 3GB 256MB 16MB 8738kB 6,4,2,2 1024,4096,1000")]
    #[case(16 * GIB, 8000, 500 * GIB, "4GB 12GB 1GB 16MB 17476kB 8,8,4,4 1024,4096,1000")]
    #[case(64 * GIB, 16000, 20 * GIB, "16GB 48GB 2GB 16MB 34952kB 16,16,8,4 1024,4096,1000")]
    #[case(0, 0, 256 * MIB, "64MB 192MB 16MB 1920kB 1092kB 6,2,1,1 32,64,32")]
    #[case(0, 3999, 0, "64MB 192MB 16MB 1920kB 1092kB 6,2,1,1 80,1024,1000")]
    #[case(8_000_000_000, 0, 10_000_000_000, "1953125kB 5859375kB 488281kB 16MB 32552kB 6,2,1,1 596,2384,1000")]
    fn sizes_follow_the_pools(#[case] memory: u64, #[case] cpu: u64, #[case] disk: u64, #[case] expected: &str) {
        assert_eq!(summary(memory, cpu, disk), expected);
    }

    #[rstest]
    #[case(None, 16)]
    #[case(Some("--encoding=UTF8"), 16)]
    #[case(Some("--wal-segsize=64"), 64)]
    #[case(Some("-k --wal-segsize 32"), 32)]
    #[case(Some("--wal-segsize=banana"), 16)]
    #[case(Some("--wal-segsize"), 16)]
    fn segment_size_comes_from_initdb_arguments(#[case] args: Option<&str>, #[case] expected: u64) {
        assert_eq!(segment_of(args), expected);
    }

    #[test]
    fn growing_cpu_never_lowers_worker_processes() {
        let at = |cpu| Sizing::of(Basis { cpu, ..Basis::default() }).max_worker_processes;
        assert!(at(1000) <= at(4000));
        assert!(at(4000) < at(16000));
    }

    proptest! {
        #[test]
        fn every_size_is_legal_for_the_server(memory: u64, cpu in 0..1_000_000u64, disk: u64, segment in 0..2000u64) {
            let sizing = Sizing::of(Basis { memory, cpu, disk, segment });
            for (name, text) in sizing.settings() {
                let setting = catalog::lookup(name).expect("a known setting");
                prop_assert_eq!(value::check(setting, &text), Ok(()), "{} = {}", name, text);
            }
            let segment = if (1..=1024).contains(&segment) { segment } else { 16 };
            prop_assert!(sizing.min_wal_size >= 2 * segment);
            prop_assert!(sizing.max_wal_size >= sizing.min_wal_size);
        }
    }
}
