//! The PostgreSQL 17 settings catalogue: context, type, unit, bounds and enum values of each server setting.
//!
//! The table was read from `pg_settings` of a server, plus the settings that the view hides. Names are lower case, as the server compares
//! them without regard to case. Extension settings (`cron.database_name`) are not part of it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// When a changed value takes effect, as in `pg_settings.context`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Fixed when the server was built or the data directory was made.
    Internal,
    /// Read at server start only.
    Postmaster,
    /// Read again on reload.
    Sighup,
    /// Read at connection start; a reload serves new connections; superusers only per session.
    SuperuserBackend,
    /// Read at connection start; a reload serves new connections.
    Backend,
    /// Read again on reload; superusers may set it per session.
    Superuser,
    /// Read again on reload; anyone may set it per session.
    User,
}

/// The unit in which the server stores a number, as in `pg_settings.unit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A bare number; a value with a unit is refused.
    Plain,
    /// Bytes.
    Byte,
    /// Kilobytes.
    Kilobyte,
    /// Pages of 8 kB.
    Block,
    /// Megabytes.
    Megabyte,
    /// Milliseconds.
    Millisecond,
    /// Seconds.
    Second,
    /// Minutes.
    Minute,
}

/// The type of a setting's value, with what limits it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// On or off.
    Bool,
    /// A whole number in the stored unit.
    Integer {
        /// Stored unit.
        unit: Unit,
        /// Smallest value, in the stored unit.
        min: i64,
        /// Largest value, in the stored unit.
        max: i64,
    },
    /// A floating-point number in the stored unit.
    Real {
        /// Stored unit.
        unit: Unit,
        /// Smallest value, in the stored unit.
        min: f64,
        /// Largest value, in the stored unit.
        max: f64,
    },
    /// Free text.
    Text,
    /// One of the values, separated by `|`.
    Enum(&'static str),
}

/// One setting of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Lower-case name.
    pub name: &'static str,
    /// When a change takes effect.
    pub context: Context,
    /// What values are legal.
    pub kind: Kind,
}

static BY_NAME: LazyLock<BTreeMap<&'static str, Setting>> =
    LazyLock::new(|| TABLE.iter().map(|&(name, context, kind)| (name, Setting { name, context, kind })).collect());

/// The setting of that name, in any case, or nothing for names that the server does not know.
pub fn lookup(name: &str) -> Option<&'static Setting> {
    BY_NAME.get(name.trim().to_ascii_lowercase().as_str())
}

/// All settings, by name.
pub fn all() -> impl Iterator<Item = &'static Setting> {
    BY_NAME.values()
}

const fn int(unit: Unit, min: i64, max: i64) -> Kind {
    Kind::Integer { unit, min, max }
}

const fn real(unit: Unit, min: f64, max: f64) -> Kind {
    Kind::Real { unit, min, max }
}

use Context::{Backend, Internal, Postmaster, Sighup, Superuser, SuperuserBackend, User};
use Unit::{Block, Byte, Kilobyte, Megabyte, Millisecond, Minute, Plain, Second};

#[rustfmt::skip]
const TABLE: &[(&str, Context, Kind)] = &[
    ("allow_alter_system", Sighup, Kind::Bool),
    ("allow_in_place_tablespaces", Superuser, Kind::Bool),
    ("allow_system_table_mods", Superuser, Kind::Bool),
    ("application_name", User, Kind::Text),
    ("archive_cleanup_command", Sighup, Kind::Text),
    ("archive_command", Sighup, Kind::Text),
    ("archive_library", Sighup, Kind::Text),
    ("archive_mode", Postmaster, Kind::Enum("always|on|off")),
    ("archive_timeout", Sighup, int(Second, 0, 1_073_741_823)),
    ("array_nulls", User, Kind::Bool),
    ("authentication_timeout", Sighup, int(Second, 1, 600)),
    ("autovacuum", Sighup, Kind::Bool),
    ("autovacuum_analyze_scale_factor", Sighup, real(Plain, 0.0, 100.0)),
    ("autovacuum_analyze_threshold", Sighup, int(Plain, 0, 2_147_483_647)),
    ("autovacuum_freeze_max_age", Postmaster, int(Plain, 100_000, 2_000_000_000)),
    ("autovacuum_max_workers", Postmaster, int(Plain, 1, 262_143)),
    ("autovacuum_multixact_freeze_max_age", Postmaster, int(Plain, 10000, 2_000_000_000)),
    ("autovacuum_naptime", Sighup, int(Second, 1, 2_147_483)),
    ("autovacuum_vacuum_cost_delay", Sighup, real(Millisecond, -1.0, 100.0)),
    ("autovacuum_vacuum_cost_limit", Sighup, int(Plain, -1, 10000)),
    ("autovacuum_vacuum_insert_scale_factor", Sighup, real(Plain, 0.0, 100.0)),
    ("autovacuum_vacuum_insert_threshold", Sighup, int(Plain, -1, 2_147_483_647)),
    ("autovacuum_vacuum_scale_factor", Sighup, real(Plain, 0.0, 100.0)),
    ("autovacuum_vacuum_threshold", Sighup, int(Plain, 0, 2_147_483_647)),
    ("autovacuum_work_mem", Sighup, int(Kilobyte, -1, 2_147_483_647)),
    ("backend_flush_after", User, int(Block, 0, 256)),
    ("backslash_quote", User, Kind::Enum("safe_encoding|on|off")),
    ("backtrace_functions", Superuser, Kind::Text),
    ("bgwriter_delay", Sighup, int(Millisecond, 10, 10000)),
    ("bgwriter_flush_after", Sighup, int(Block, 0, 256)),
    ("bgwriter_lru_maxpages", Sighup, int(Plain, 0, 1_073_741_823)),
    ("bgwriter_lru_multiplier", Sighup, real(Plain, 0.0, 10.0)),
    ("block_size", Internal, int(Plain, 8192, 8192)),
    ("bonjour", Postmaster, Kind::Bool),
    ("bonjour_name", Postmaster, Kind::Text),
    ("bytea_output", User, Kind::Enum("escape|hex")),
    ("check_function_bodies", User, Kind::Bool),
    ("checkpoint_completion_target", Sighup, real(Plain, 0.0, 1.0)),
    ("checkpoint_flush_after", Sighup, int(Block, 0, 256)),
    ("checkpoint_timeout", Sighup, int(Second, 30, 86400)),
    ("checkpoint_warning", Sighup, int(Second, 0, 2_147_483_647)),
    ("client_connection_check_interval", User, int(Millisecond, 0, 2_147_483_647)),
    ("client_encoding", User, Kind::Text),
    ("client_min_messages", User, Kind::Enum("debug5|debug4|debug3|debug2|debug1|log|notice|warning|error")),
    ("cluster_name", Postmaster, Kind::Text),
    ("commit_delay", Superuser, int(Plain, 0, 100_000)),
    ("commit_siblings", User, int(Plain, 0, 1000)),
    ("commit_timestamp_buffers", Postmaster, int(Block, 0, 131_072)),
    ("compute_query_id", Superuser, Kind::Enum("auto|regress|on|off")),
    ("config_file", Postmaster, Kind::Text),
    ("constraint_exclusion", User, Kind::Enum("partition|on|off")),
    ("cpu_index_tuple_cost", User, real(Plain, 0.0, f64::MAX)),
    ("cpu_operator_cost", User, real(Plain, 0.0, f64::MAX)),
    ("cpu_tuple_cost", User, real(Plain, 0.0, f64::MAX)),
    ("createrole_self_grant", User, Kind::Text),
    ("cursor_tuple_fraction", User, real(Plain, 0.0, 1.0)),
    ("data_checksums", Internal, Kind::Bool),
    ("data_directory", Postmaster, Kind::Text),
    ("data_directory_mode", Internal, int(Plain, 0, 511)),
    ("data_sync_retry", Postmaster, Kind::Bool),
    ("datestyle", User, Kind::Text),
    ("deadlock_timeout", Superuser, int(Millisecond, 1, 2_147_483_647)),
    ("debug_assertions", Internal, Kind::Bool),
    ("debug_deadlocks", Superuser, Kind::Bool),
    ("debug_discard_caches", Superuser, int(Plain, 0, 0)),
    ("debug_io_direct", Postmaster, Kind::Text),
    ("debug_logical_replication_streaming", User, Kind::Enum("buffered|immediate")),
    ("debug_parallel_query", User, Kind::Enum("off|on|regress")),
    ("debug_pretty_print", User, Kind::Bool),
    ("debug_print_parse", User, Kind::Bool),
    ("debug_print_plan", User, Kind::Bool),
    ("debug_print_rewritten", User, Kind::Bool),
    ("default_statistics_target", User, int(Plain, 1, 10000)),
    ("default_table_access_method", User, Kind::Text),
    ("default_tablespace", User, Kind::Text),
    ("default_text_search_config", User, Kind::Text),
    ("default_toast_compression", User, Kind::Enum("pglz|lz4")),
    ("default_transaction_deferrable", User, Kind::Bool),
    ("default_transaction_isolation", User, Kind::Enum("serializable|repeatable read|read committed|read uncommitted")),
    ("default_transaction_read_only", User, Kind::Bool),
    ("default_with_oids", User, Kind::Bool),
    ("dynamic_library_path", Superuser, Kind::Text),
    ("dynamic_shared_memory_type", Postmaster, Kind::Enum("posix|sysv|mmap")),
    ("effective_cache_size", User, int(Block, 1, 2_147_483_647)),
    ("effective_io_concurrency", User, int(Plain, 0, 1000)),
    ("enable_async_append", User, Kind::Bool),
    ("enable_bitmapscan", User, Kind::Bool),
    ("enable_gathermerge", User, Kind::Bool),
    ("enable_group_by_reordering", User, Kind::Bool),
    ("enable_hashagg", User, Kind::Bool),
    ("enable_hashjoin", User, Kind::Bool),
    ("enable_incremental_sort", User, Kind::Bool),
    ("enable_indexonlyscan", User, Kind::Bool),
    ("enable_indexscan", User, Kind::Bool),
    ("enable_material", User, Kind::Bool),
    ("enable_memoize", User, Kind::Bool),
    ("enable_mergejoin", User, Kind::Bool),
    ("enable_nestloop", User, Kind::Bool),
    ("enable_parallel_append", User, Kind::Bool),
    ("enable_parallel_hash", User, Kind::Bool),
    ("enable_partition_pruning", User, Kind::Bool),
    ("enable_partitionwise_aggregate", User, Kind::Bool),
    ("enable_partitionwise_join", User, Kind::Bool),
    ("enable_presorted_aggregate", User, Kind::Bool),
    ("enable_seqscan", User, Kind::Bool),
    ("enable_sort", User, Kind::Bool),
    ("enable_tidscan", User, Kind::Bool),
    ("escape_string_warning", User, Kind::Bool),
    ("event_source", Postmaster, Kind::Text),
    ("event_triggers", Superuser, Kind::Bool),
    ("exit_on_error", User, Kind::Bool),
    ("external_pid_file", Postmaster, Kind::Text),
    ("extra_float_digits", User, int(Plain, -15, 3)),
    ("from_collapse_limit", User, int(Plain, 1, 2_147_483_647)),
    ("fsync", Sighup, Kind::Bool),
    ("full_page_writes", Sighup, Kind::Bool),
    ("geqo", User, Kind::Bool),
    ("geqo_effort", User, int(Plain, 1, 10)),
    ("geqo_generations", User, int(Plain, 0, 2_147_483_647)),
    ("geqo_pool_size", User, int(Plain, 0, 2_147_483_647)),
    ("geqo_seed", User, real(Plain, 0.0, 1.0)),
    ("geqo_selection_bias", User, real(Plain, 1.5, 2.0)),
    ("geqo_threshold", User, int(Plain, 2, 2_147_483_647)),
    ("gin_fuzzy_search_limit", User, int(Plain, 0, 2_147_483_647)),
    ("gin_pending_list_limit", User, int(Kilobyte, 64, 2_147_483_647)),
    ("gss_accept_delegation", Sighup, Kind::Bool),
    ("hash_mem_multiplier", User, real(Plain, 1.0, 1000.0)),
    ("hba_file", Postmaster, Kind::Text),
    ("hot_standby", Postmaster, Kind::Bool),
    ("hot_standby_feedback", Sighup, Kind::Bool),
    ("huge_page_size", Postmaster, int(Kilobyte, 0, 2_147_483_647)),
    ("huge_pages", Postmaster, Kind::Enum("off|on|try")),
    ("huge_pages_status", Internal, Kind::Enum("off|on|unknown")),
    ("icu_validation_level", User, Kind::Enum("disabled|debug5|debug4|debug3|debug2|debug1|log|notice|warning|error")),
    ("ident_file", Postmaster, Kind::Text),
    ("idle_in_transaction_session_timeout", User, int(Millisecond, 0, 2_147_483_647)),
    ("idle_session_timeout", User, int(Millisecond, 0, 2_147_483_647)),
    ("ignore_checksum_failure", Superuser, Kind::Bool),
    ("ignore_invalid_pages", Postmaster, Kind::Bool),
    ("ignore_system_indexes", Backend, Kind::Bool),
    ("in_hot_standby", Internal, Kind::Bool),
    ("integer_datetimes", Internal, Kind::Bool),
    ("intervalstyle", User, Kind::Enum("postgres|postgres_verbose|sql_standard|iso_8601")),
    ("io_combine_limit", User, int(Block, 1, 32)),
    ("is_superuser", Internal, Kind::Bool),
    ("jit", User, Kind::Bool),
    ("jit_above_cost", User, real(Plain, -1.0, f64::MAX)),
    ("jit_debugging_support", SuperuserBackend, Kind::Bool),
    ("jit_dump_bitcode", Superuser, Kind::Bool),
    ("jit_expressions", User, Kind::Bool),
    ("jit_inline_above_cost", User, real(Plain, -1.0, f64::MAX)),
    ("jit_optimize_above_cost", User, real(Plain, -1.0, f64::MAX)),
    ("jit_profiling_support", SuperuserBackend, Kind::Bool),
    ("jit_provider", Postmaster, Kind::Text),
    ("jit_tuple_deforming", User, Kind::Bool),
    ("join_collapse_limit", User, int(Plain, 1, 2_147_483_647)),
    ("krb_caseins_users", Sighup, Kind::Bool),
    ("krb_server_keyfile", Sighup, Kind::Text),
    ("lc_messages", Superuser, Kind::Text),
    ("lc_monetary", User, Kind::Text),
    ("lc_numeric", User, Kind::Text),
    ("lc_time", User, Kind::Text),
    ("listen_addresses", Postmaster, Kind::Text),
    ("lo_compat_privileges", Superuser, Kind::Bool),
    ("local_preload_libraries", User, Kind::Text),
    ("lock_timeout", User, int(Millisecond, 0, 2_147_483_647)),
    ("log_autovacuum_min_duration", Sighup, int(Millisecond, -1, 2_147_483_647)),
    ("log_btree_build_stats", Superuser, Kind::Bool),
    ("log_checkpoints", Sighup, Kind::Bool),
    ("log_connections", SuperuserBackend, Kind::Bool),
    ("log_destination", Sighup, Kind::Text),
    ("log_directory", Sighup, Kind::Text),
    ("log_disconnections", SuperuserBackend, Kind::Bool),
    ("log_duration", Superuser, Kind::Bool),
    ("log_error_verbosity", Superuser, Kind::Enum("terse|default|verbose")),
    ("log_executor_stats", Superuser, Kind::Bool),
    ("log_file_mode", Sighup, int(Plain, 0, 511)),
    ("log_filename", Sighup, Kind::Text),
    ("log_hostname", Sighup, Kind::Bool),
    ("log_line_prefix", Sighup, Kind::Text),
    ("log_lock_waits", Superuser, Kind::Bool),
    ("log_min_duration_sample", Superuser, int(Millisecond, -1, 2_147_483_647)),
    ("log_min_duration_statement", Superuser, int(Millisecond, -1, 2_147_483_647)),
    ("log_min_error_statement", Superuser, Kind::Enum("debug5|debug4|debug3|debug2|debug1|info|notice|warning|error|log|fatal|panic")),
    ("log_min_messages", Superuser, Kind::Enum("debug5|debug4|debug3|debug2|debug1|info|notice|warning|error|log|fatal|panic")),
    ("log_parameter_max_length", Superuser, int(Byte, -1, 1_073_741_823)),
    ("log_parameter_max_length_on_error", User, int(Byte, -1, 1_073_741_823)),
    ("log_parser_stats", Superuser, Kind::Bool),
    ("log_planner_stats", Superuser, Kind::Bool),
    ("log_recovery_conflict_waits", Sighup, Kind::Bool),
    ("log_replication_commands", Superuser, Kind::Bool),
    ("log_rotation_age", Sighup, int(Minute, 0, 35_791_394)),
    ("log_rotation_size", Sighup, int(Kilobyte, 0, 2_147_483_647)),
    ("log_startup_progress_interval", Sighup, int(Millisecond, 0, 2_147_483_647)),
    ("log_statement", Superuser, Kind::Enum("none|ddl|mod|all")),
    ("log_statement_sample_rate", Superuser, real(Plain, 0.0, 1.0)),
    ("log_statement_stats", Superuser, Kind::Bool),
    ("log_temp_files", Superuser, int(Kilobyte, -1, 2_147_483_647)),
    ("log_timezone", Sighup, Kind::Text),
    ("log_transaction_sample_rate", Superuser, real(Plain, 0.0, 1.0)),
    ("log_truncate_on_rotation", Sighup, Kind::Bool),
    ("logging_collector", Postmaster, Kind::Bool),
    ("logical_decoding_work_mem", User, int(Kilobyte, 64, 2_147_483_647)),
    ("maintenance_io_concurrency", User, int(Plain, 0, 1000)),
    ("maintenance_work_mem", User, int(Kilobyte, 64, 2_147_483_647)),
    ("max_connections", Postmaster, int(Plain, 1, 262_143)),
    ("max_files_per_process", Postmaster, int(Plain, 64, 2_147_483_647)),
    ("max_function_args", Internal, int(Plain, 100, 100)),
    ("max_identifier_length", Internal, int(Plain, 63, 63)),
    ("max_index_keys", Internal, int(Plain, 32, 32)),
    ("max_locks_per_transaction", Postmaster, int(Plain, 10, 2_147_483_647)),
    ("max_logical_replication_workers", Postmaster, int(Plain, 0, 262_143)),
    ("max_notify_queue_pages", Postmaster, int(Plain, 64, 2_147_483_647)),
    ("max_parallel_apply_workers_per_subscription", Sighup, int(Plain, 0, 1024)),
    ("max_parallel_maintenance_workers", User, int(Plain, 0, 1024)),
    ("max_parallel_workers", User, int(Plain, 0, 1024)),
    ("max_parallel_workers_per_gather", User, int(Plain, 0, 1024)),
    ("max_pred_locks_per_page", Sighup, int(Plain, 0, 2_147_483_647)),
    ("max_pred_locks_per_relation", Sighup, int(Plain, -2_147_483_648, 2_147_483_647)),
    ("max_pred_locks_per_transaction", Postmaster, int(Plain, 10, 2_147_483_647)),
    ("max_prepared_transactions", Postmaster, int(Plain, 0, 262_143)),
    ("max_replication_slots", Postmaster, int(Plain, 0, 262_143)),
    ("max_slot_wal_keep_size", Sighup, int(Megabyte, -1, 2_147_483_647)),
    ("max_stack_depth", Superuser, int(Kilobyte, 100, 2_147_483_647)),
    ("max_standby_archive_delay", Sighup, int(Millisecond, -1, 2_147_483_647)),
    ("max_standby_streaming_delay", Sighup, int(Millisecond, -1, 2_147_483_647)),
    ("max_sync_workers_per_subscription", Sighup, int(Plain, 0, 262_143)),
    ("max_wal_senders", Postmaster, int(Plain, 0, 262_143)),
    ("max_wal_size", Sighup, int(Megabyte, 2, 2_147_483_647)),
    ("max_worker_processes", Postmaster, int(Plain, 0, 262_143)),
    ("min_dynamic_shared_memory", Postmaster, int(Megabyte, 0, 2_147_483_647)),
    ("min_parallel_index_scan_size", User, int(Block, 0, 715_827_882)),
    ("min_parallel_table_scan_size", User, int(Block, 0, 715_827_882)),
    ("min_wal_size", Sighup, int(Megabyte, 2, 2_147_483_647)),
    ("multixact_member_buffers", Postmaster, int(Block, 16, 131_072)),
    ("multixact_offset_buffers", Postmaster, int(Block, 16, 131_072)),
    ("notify_buffers", Postmaster, int(Block, 16, 131_072)),
    ("parallel_leader_participation", User, Kind::Bool),
    ("parallel_setup_cost", User, real(Plain, 0.0, f64::MAX)),
    ("parallel_tuple_cost", User, real(Plain, 0.0, f64::MAX)),
    ("password_encryption", User, Kind::Enum("md5|scram-sha-256")),
    ("plan_cache_mode", User, Kind::Enum("auto|force_generic_plan|force_custom_plan")),
    ("port", Postmaster, int(Plain, 1, 65535)),
    ("post_auth_delay", Backend, int(Second, 0, 2147)),
    ("pre_auth_delay", Sighup, int(Second, 0, 60)),
    ("primary_conninfo", Sighup, Kind::Text),
    ("primary_slot_name", Sighup, Kind::Text),
    ("quote_all_identifiers", User, Kind::Bool),
    ("random_page_cost", User, real(Plain, 0.0, f64::MAX)),
    ("recovery_end_command", Sighup, Kind::Text),
    ("recovery_init_sync_method", Sighup, Kind::Enum("fsync|syncfs")),
    ("recovery_min_apply_delay", Sighup, int(Millisecond, 0, 2_147_483_647)),
    ("recovery_prefetch", Sighup, Kind::Enum("off|on|try")),
    ("recovery_target", Postmaster, Kind::Text),
    ("recovery_target_action", Postmaster, Kind::Enum("pause|promote|shutdown")),
    ("recovery_target_inclusive", Postmaster, Kind::Bool),
    ("recovery_target_lsn", Postmaster, Kind::Text),
    ("recovery_target_name", Postmaster, Kind::Text),
    ("recovery_target_time", Postmaster, Kind::Text),
    ("recovery_target_timeline", Postmaster, Kind::Text),
    ("recovery_target_xid", Postmaster, Kind::Text),
    ("recursive_worktable_factor", User, real(Plain, 0.001, 1_000_000.0)),
    ("remove_temp_files_after_crash", Sighup, Kind::Bool),
    ("reserved_connections", Postmaster, int(Plain, 0, 262_143)),
    ("restart_after_crash", Sighup, Kind::Bool),
    ("restore_command", Sighup, Kind::Text),
    ("restrict_nonsystem_relation_kind", User, Kind::Text),
    ("role", User, Kind::Text),
    ("row_security", User, Kind::Bool),
    ("scram_iterations", User, int(Plain, 1, 2_147_483_647)),
    ("search_path", User, Kind::Text),
    ("seed", User, real(Plain, -1.0, 1.0)),
    ("segment_size", Internal, int(Block, 131_072, 131_072)),
    ("send_abort_for_crash", Sighup, Kind::Bool),
    ("send_abort_for_kill", Sighup, Kind::Bool),
    ("seq_page_cost", User, real(Plain, 0.0, f64::MAX)),
    ("serializable_buffers", Postmaster, int(Block, 16, 131_072)),
    ("server_encoding", Internal, Kind::Text),
    ("server_version", Internal, Kind::Text),
    ("server_version_num", Internal, int(Plain, 150_018, 150_018)),
    ("session_authorization", User, Kind::Text),
    ("session_preload_libraries", Superuser, Kind::Text),
    ("session_replication_role", Superuser, Kind::Enum("origin|replica|local")),
    ("shared_buffers", Postmaster, int(Block, 16, 1_073_741_823)),
    ("shared_memory_size", Internal, int(Megabyte, 0, 2_147_483_647)),
    ("shared_memory_size_in_huge_pages", Internal, int(Plain, -1, 2_147_483_647)),
    ("shared_memory_type", Postmaster, Kind::Enum("sysv|mmap")),
    ("shared_preload_libraries", Postmaster, Kind::Text),
    ("ssl", Sighup, Kind::Bool),
    ("ssl_ca_file", Sighup, Kind::Text),
    ("ssl_cert_file", Sighup, Kind::Text),
    ("ssl_ciphers", Sighup, Kind::Text),
    ("ssl_crl_dir", Sighup, Kind::Text),
    ("ssl_crl_file", Sighup, Kind::Text),
    ("ssl_dh_params_file", Sighup, Kind::Text),
    ("ssl_ecdh_curve", Sighup, Kind::Text),
    ("ssl_key_file", Sighup, Kind::Text),
    ("ssl_library", Internal, Kind::Text),
    ("ssl_max_protocol_version", Sighup, Kind::Enum("|TLSv1|TLSv1.1|TLSv1.2|TLSv1.3")),
    ("ssl_min_protocol_version", Sighup, Kind::Enum("TLSv1|TLSv1.1|TLSv1.2|TLSv1.3")),
    ("ssl_passphrase_command", Sighup, Kind::Text),
    ("ssl_passphrase_command_supports_reload", Sighup, Kind::Bool),
    ("ssl_prefer_server_ciphers", Sighup, Kind::Bool),
    ("ssl_renegotiation_limit", User, int(Kilobyte, 0, 0)),
    ("standard_conforming_strings", User, Kind::Bool),
    ("statement_timeout", User, int(Millisecond, 0, 2_147_483_647)),
    ("stats_fetch_consistency", User, Kind::Enum("none|cache|snapshot")),
    ("subtransaction_buffers", Postmaster, int(Block, 0, 131_072)),
    ("summarize_wal", Sighup, Kind::Bool),
    ("superuser_reserved_connections", Postmaster, int(Plain, 0, 262_143)),
    ("sync_replication_slots", Sighup, Kind::Bool),
    ("synchronize_seqscans", User, Kind::Bool),
    ("synchronized_standby_slots", Sighup, Kind::Text),
    ("synchronous_commit", User, Kind::Enum("local|remote_write|remote_apply|on|off")),
    ("synchronous_standby_names", Sighup, Kind::Text),
    ("syslog_facility", Sighup, Kind::Enum("local0|local1|local2|local3|local4|local5|local6|local7")),
    ("syslog_ident", Sighup, Kind::Text),
    ("syslog_sequence_numbers", Sighup, Kind::Bool),
    ("syslog_split_messages", Sighup, Kind::Bool),
    ("tcp_keepalives_count", User, int(Plain, 0, 2_147_483_647)),
    ("tcp_keepalives_idle", User, int(Second, 0, 2_147_483_647)),
    ("tcp_keepalives_interval", User, int(Second, 0, 2_147_483_647)),
    ("tcp_user_timeout", User, int(Millisecond, 0, 2_147_483_647)),
    ("temp_buffers", User, int(Block, 100, 1_073_741_823)),
    ("temp_file_limit", Superuser, int(Kilobyte, -1, 2_147_483_647)),
    ("temp_tablespaces", User, Kind::Text),
    ("timezone", User, Kind::Text),
    ("timezone_abbreviations", User, Kind::Text),
    ("trace_connection_negotiation", Postmaster, Kind::Bool),
    ("trace_lock_oidmin", Superuser, int(Plain, 0, 2_147_483_647)),
    ("trace_lock_table", Superuser, int(Plain, 0, 2_147_483_647)),
    ("trace_locks", Superuser, Kind::Bool),
    ("trace_lwlocks", Superuser, Kind::Bool),
    ("trace_notify", User, Kind::Bool),
    ("trace_sort", User, Kind::Bool),
    ("trace_syncscan", User, Kind::Bool),
    ("trace_userlocks", Superuser, Kind::Bool),
    ("track_activities", Superuser, Kind::Bool),
    ("track_activity_query_size", Postmaster, int(Byte, 100, 1_048_576)),
    ("track_commit_timestamp", Postmaster, Kind::Bool),
    ("track_counts", Superuser, Kind::Bool),
    ("track_functions", Superuser, Kind::Enum("none|pl|all")),
    ("track_io_timing", Superuser, Kind::Bool),
    ("track_wal_io_timing", Superuser, Kind::Bool),
    ("transaction_buffers", Postmaster, int(Block, 0, 131_072)),
    ("transaction_deferrable", User, Kind::Bool),
    ("transaction_isolation", User, Kind::Enum("serializable|repeatable read|read committed|read uncommitted")),
    ("transaction_read_only", User, Kind::Bool),
    ("transaction_timeout", User, int(Millisecond, 0, 2_147_483_647)),
    ("transform_null_equals", User, Kind::Bool),
    ("unix_socket_directories", Postmaster, Kind::Text),
    ("unix_socket_group", Postmaster, Kind::Text),
    ("unix_socket_permissions", Postmaster, int(Plain, 0, 511)),
    ("update_process_title", Superuser, Kind::Bool),
    ("vacuum_buffer_usage_limit", User, int(Kilobyte, 0, 16_777_216)),
    ("vacuum_cost_delay", User, real(Millisecond, 0.0, 100.0)),
    ("vacuum_cost_limit", User, int(Plain, 1, 10000)),
    ("vacuum_cost_page_dirty", User, int(Plain, 0, 10000)),
    ("vacuum_cost_page_hit", User, int(Plain, 0, 10000)),
    ("vacuum_cost_page_miss", User, int(Plain, 0, 10000)),
    ("vacuum_failsafe_age", User, int(Plain, 0, 2_100_000_000)),
    ("vacuum_freeze_min_age", User, int(Plain, 0, 1_000_000_000)),
    ("vacuum_freeze_table_age", User, int(Plain, 0, 2_000_000_000)),
    ("vacuum_multixact_failsafe_age", User, int(Plain, 0, 2_100_000_000)),
    ("vacuum_multixact_freeze_min_age", User, int(Plain, 0, 1_000_000_000)),
    ("vacuum_multixact_freeze_table_age", User, int(Plain, 0, 2_000_000_000)),
    ("wal_block_size", Internal, int(Plain, 8192, 8192)),
    ("wal_buffers", Postmaster, int(Block, -1, 262_143)),
    ("wal_compression", Superuser, Kind::Enum("pglz|lz4|zstd|on|off")),
    ("wal_consistency_checking", Superuser, Kind::Text),
    ("wal_debug", Superuser, Kind::Bool),
    ("wal_decode_buffer_size", Postmaster, int(Byte, 65536, 1_073_741_823)),
    ("wal_init_zero", Superuser, Kind::Bool),
    ("wal_keep_size", Sighup, int(Megabyte, 0, 2_147_483_647)),
    ("wal_level", Postmaster, Kind::Enum("minimal|replica|logical")),
    ("wal_log_hints", Postmaster, Kind::Bool),
    ("wal_receiver_create_temp_slot", Sighup, Kind::Bool),
    ("wal_receiver_status_interval", Sighup, int(Second, 0, 2_147_483)),
    ("wal_receiver_timeout", Sighup, int(Millisecond, 0, 2_147_483_647)),
    ("wal_recycle", Superuser, Kind::Bool),
    ("wal_retrieve_retry_interval", Sighup, int(Millisecond, 1, 2_147_483_647)),
    ("wal_segment_size", Internal, int(Byte, 1_048_576, 1_073_741_824)),
    ("wal_sender_timeout", User, int(Millisecond, 0, 2_147_483_647)),
    ("wal_skip_threshold", User, int(Kilobyte, 0, 2_147_483_647)),
    ("wal_summary_keep_time", Sighup, int(Minute, 0, 35_791_394)),
    ("wal_sync_method", Sighup, Kind::Enum("fsync|fdatasync|open_sync|open_datasync")),
    ("wal_writer_delay", Sighup, int(Millisecond, 1, 10000)),
    ("wal_writer_flush_after", Sighup, int(Block, 0, 2_147_483_647)),
    ("work_mem", User, int(Kilobyte, 64, 2_147_483_647)),
    ("xmlbinary", User, Kind::Enum("base64|hex")),
    ("xmloption", User, Kind::Enum("content|document")),
    ("zero_damaged_pages", Superuser, Kind::Bool),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_has_every_setting_once_per_context() {
        assert_eq!(TABLE.len(), 392);
        assert_eq!(BY_NAME.len(), TABLE.len(), "a name occurs twice");
        let count = |context| all().filter(|setting| setting.context == context).count();
        assert_eq!(
            [Postmaster, Internal, Sighup, Superuser, User, Backend, SuperuserBackend].map(count),
            [65, 20, 97, 53, 151, 2, 4]
        );
    }

    #[test]
    fn lookup_ignores_case() {
        assert_eq!(lookup("TimeZone").map(|setting| setting.name), Some("timezone"));
        assert_eq!(lookup(" Work_Mem ").map(|setting| setting.context), Some(User));
        assert_eq!(lookup("no_such_setting"), None);
    }
}
