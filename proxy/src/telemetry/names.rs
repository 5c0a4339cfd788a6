//! The one table of metric names. A name is an interface: dashboards and alerts break when it changes.

/// What Prometheus is told about a family of series.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "counter", help }
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "gauge", help }
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "histogram", help }
}

pub(super) const REQUESTS: Family = counter(
    "isthmus_requests_total",
    "HTTP requests, by direction and status class of the answer; none: whoever asked left before it.",
);
pub(super) const REQUEST_SECONDS: Family = histogram(
    "isthmus_request_duration_seconds",
    "Time from a request's head to its answer's head, as this proxy saw it, in seconds.",
);
pub(super) const LINK_SECONDS: Family = histogram(
    "isthmus_link_duration_seconds",
    "Time a request spent between two sidecars (there and back, without the callee's own time), in seconds.",
);
pub(super) const REFUSED: Family =
    counter("isthmus_refused_total", "Connections, streams and requests refused, by reason (see isthmus explain).");
pub(super) const WOULD_REFUSE: Family = counter(
    "isthmus_would_refuse_total",
    "What passed in Observe or Audit and would be refused in Enforce, by reason.",
);
pub(super) const CONNECTIONS_OPENED: Family =
    counter("isthmus_connections_opened_total", "App connections taken up, by direction.");
pub(super) const CONNECTIONS_ACTIVE: Family = gauge("isthmus_connections_active", "App connections open now.");
pub(super) const BYTES: Family =
    counter("isthmus_bytes_total", "Bytes of app payload carried, by direction and flow (to or from the callee).");
pub(super) const MESH_OPENED: Family = counter(
    "isthmus_mesh_connections_opened_total",
    "mTLS connections between sidecars established, by side (client dialled, server accepted).",
);
pub(super) const MESH_ACTIVE: Family =
    gauge("isthmus_mesh_connections_active", "mTLS connections between sidecars open now, by side.");
pub(super) const MESH_FAILED: Family =
    counter("isthmus_mesh_handshakes_failed_total", "Handshakes between sidecars that failed, by side and reason.");
pub(super) const MESH_NEGOTIATED: Family = counter(
    "isthmus_mesh_tls_total",
    "Handshakes between sidecars that succeeded, by side, TLS version, key exchange group and cipher suite.",
);
pub(super) const MESH_HANDSHAKE_SECONDS: Family = histogram(
    "isthmus_mesh_handshake_duration_seconds",
    "Time of a handshake between sidecars that succeeded, by side, in seconds; TCP's own is not in it.",
);
pub(super) const RETRIES: Family = counter(
    "isthmus_retries_total",
    "Tries of a request or connection after the first, on another endpoint or connection, by protocol (http, tcp).",
);
pub(super) const MESH_EVENTS: Family = counter(
    "isthmus_mesh_events_total",
    "What happened to mesh connections, by event: warmed, borrowed, idle-closed, dial-failed, failed-fast, peer-silent, kept, handed, handed-back.",
);
pub(super) const EJECTED: Family = gauge(
    "isthmus_endpoints_ejected",
    "Endpoints outside without a turn now, since they fail this proxy's health checks; where all of a service fail, all have one.",
);
pub(super) const EJECTIONS: Family = counter(
    "isthmus_endpoint_ejections_total",
    "Times that an endpoint outside lost its turn, since it began to fail this proxy's health checks.",
);
pub(super) const STREAMS_OPENED: Family =
    counter("isthmus_streams_opened_total", "Requests and tunnels begun on mesh connections, by side.");
pub(super) const STREAMS_ACTIVE: Family =
    gauge("isthmus_streams_active", "Requests and tunnels open on mesh connections now, by side.");
pub(super) const ACCEPT_ERRORS: Family =
    counter("isthmus_accept_errors_total", "accept() failures; the listener backs off and goes on. By cause.");
pub(super) const WORKER_CONNECTIONS: Family =
    gauge("isthmus_worker_connections_active", "Open connections by worker; uneven numbers mean imbalance.");
pub(super) const WORKER_IMBALANCE: Family = gauge(
    "isthmus_worker_imbalance_ratio",
    "The busiest worker's open connections and streams over the mean of all; 1: even.",
);
pub(super) const SPANS_EXPORTED: Family = counter(
    "isthmus_spans_exported_total",
    "Spans that an OTLP collector acknowledged; without one, the control plane.",
);
pub(super) const SPANS_DROPPED: Family =
    counter("isthmus_spans_dropped_total", "Spans that were given up, by reason. Requests never wait for spans.");
pub(super) const NOT_FOLLOWED: Family = counter(
    "isthmus_answers_not_followed_total",
    "Answers with too many others under way: what breaks of them after the head is not kept as a trace. By direction.",
);
pub(super) const ACCESS_DROPPED: Family = counter(
    "isthmus_access_log_dropped_total",
    "Lines of the access log that the disk did not take in time. Requests never wait for it.",
);
pub(super) const FLOWS_DROPPED: Family = counter(
    "isthmus_flows_dropped_total",
    "Decisions that are in no flow record, because there were too many different ones. Decisions never wait for it.",
);
pub(super) const REFUSALS_DROPPED: Family = counter(
    "isthmus_refusal_records_dropped_total",
    "Refusals whose record was written over before it was reported: isthmus explain does not find their ids.",
);
pub(super) const CONTROL_CONNECTED: Family =
    gauge("isthmus_control_connected", "1 while the stream to the control plane is up, else 0.");
pub(super) const CONTROL_CONNECTS: Family =
    counter("isthmus_control_connects_total", "Streams to the control plane that were opened.");
pub(super) const CONTROL_VERSION: Family =
    gauge("isthmus_control_version", "Version of the snapshot in force, as the control plane numbers it.");
pub(super) const CONTROL_LAG: Family = gauge(
    "isthmus_control_lag_seconds",
    "How long what is in force here may not have been the control plane's latest word: no stream, or an update that could not be taken whole; 0: it is.",
);
pub(super) const CONTROL_UPDATES: Family =
    counter("isthmus_control_updates_total", "Updates from the control plane, by result (ack, nack).");
pub(super) const CERTIFICATE_EXPIRY: Family = gauge(
    "isthmus_certificate_expiry_timestamp_seconds",
    "When this workload's certificate ends, Unix seconds; 0: no certificate yet.",
);
pub(super) const CERTIFICATE_RENEWALS: Family =
    counter("isthmus_certificate_renewals_total", "Attempts to get a certificate, by result (ok, failed).");
pub(super) const RENEWAL_FAILING: Family = gauge(
    "isthmus_certificate_renewal_failing_attempts",
    "Attempts to renew that failed since the certificate was due; 0: all is well. They begin at half of its life.",
);
pub(super) const LAST_GOOD: Family = gauge(
    "isthmus_serving_last_good",
    "1 while the snapshot in force is the one that an earlier process kept on disk, else 0.",
);
pub(super) const CAPTURE_RESTORED: Family = counter(
    "isthmus_capture_restored_total",
    "Times that others had changed the capture rules and they were put back.",
);
pub(super) const CAPTURE_EXPOSED: Family = counter(
    "isthmus_capture_exposed_seconds_total",
    "Time from hearing that others had changed the capture rules until they were back: what was not captured.",
);
pub(super) const CAPTURE_UDP_DROPPED: Family =
    gauge("isthmus_capture_udp_dropped_packets", "Outgoing UDP packets dropped since the capture rules last changed.");
pub(super) const SOURCE_PRESERVED: Family = gauge(
    "isthmus_source_address_preserved",
    "1 when apps may be dialled from their callers' addresses, 0 where the host does not permit it.",
);
pub(super) const READY: Family = gauge("isthmus_ready", "1 when readiness is answered with 200, else 0.");
pub(super) const BUILD: Family = gauge("isthmus_build_info", "Always 1; the version is in the label.");
pub(super) const TARGET: Family =
    gauge("target_info", "Always 1; what this proxy serves is in the labels, as OpenTelemetry names a resource.");
pub(super) const CLOCK_SKEW: Family = gauge(
    "isthmus_clock_skew_seconds",
    "This host's clock minus the control plane's when it was last asked. Beyond 300 either way mTLS may fail.",
);
pub(super) const SERVICE_REQUESTS: Family = counter(
    "isthmus_service_requests_total",
    "Requests to a service, by its port, the site that answered and the status class. At most 512 edges, then other.",
);
pub(super) const SERVICE_SECONDS: Family = histogram(
    "isthmus_service_request_duration_seconds",
    "Time from a request's head to its answer's head, by service, port and site that answered, in seconds.",
);
pub(super) const SERVICE_CONNECTIONS: Family = counter(
    "isthmus_service_connections_total",
    "Connections of bytes to a service that have ended, by its port and the site that answered.",
);
pub(super) const SERVICE_BYTES: Family = counter(
    "isthmus_service_bytes_total",
    "Bytes of connections to a service that have ended, by port, site and flow (to or from the callee).",
);
pub(super) const CALLER_REQUESTS: Family = counter(
    "isthmus_caller_requests_total",
    "Requests from an identity, by our port and the status class. At most 512 edges, then other.",
);
pub(super) const CALLER_SECONDS: Family = histogram(
    "isthmus_caller_request_duration_seconds",
    "Time from a request's head to its answer's head, by the caller's identity and our port, in seconds.",
);
pub(super) const CALLER_CONNECTIONS: Family =
    counter("isthmus_caller_connections_total", "Connections of bytes from an identity that have ended, by our port.");
pub(super) const CALLER_BYTES: Family = counter(
    "isthmus_caller_bytes_total",
    "Bytes of connections from an identity that have ended, by our port and flow (to or from the callee).",
);
pub(super) const EDGES_BEYOND: Family = counter(
    "isthmus_edges_beyond_total",
    "Times that a worker met an edge beyond the 512 that have series of their own, and began to count it as other.",
);
pub(super) const PROCESS_CPU: Family =
    counter("process_cpu_seconds_total", "User and system time of this process, in seconds.");
pub(super) const PROCESS_MEMORY: Family = gauge("process_resident_memory_bytes", "Resident memory of this process.");
pub(super) const PROCESS_FDS: Family = gauge("process_open_fds", "File descriptors that are open.");
pub(super) const PROCESS_MAX_FDS: Family = gauge("process_max_fds", "File descriptors that may be open.");
pub(super) const PROCESS_START: Family = gauge("process_start_time_seconds", "When this process began, Unix seconds.");
pub(super) const LINK_RTT: Family = gauge(
    "isthmus_link_rtt_seconds",
    "The kernel's smoothed round trip, the mean over our mesh connections to a site that are open.",
);
pub(super) const LINK_RTT_LEAST: Family =
    gauge("isthmus_link_rtt_least_seconds", "The same, of the connection with the smallest.");
pub(super) const LINK_SEGMENTS: Family =
    counter("isthmus_link_segments_total", "TCP segments with data sent on mesh connections to a site.");
pub(super) const LINK_RETRANSMITTED: Family = counter(
    "isthmus_link_retransmitted_segments_total",
    "TCP segments sent again on mesh connections to a site: over segments_total, the loss that the kernel saw.",
);
pub(super) const LINK_BYTES: Family = counter(
    "isthmus_link_bytes_total",
    "Bytes on mesh connections to a site, TLS included, by flow (sent and acknowledged, or received). Asked for every 5 s.",
);
pub(super) const LINK_DELIVERY: Family = gauge(
    "isthmus_link_delivery_bytes_per_second",
    "What lately arrived at a site, by the kernel's estimate, of all open mesh connections; low where little was sent.",
);
pub(super) const LINK_MTU: Family =
    gauge("isthmus_link_path_mtu_bytes", "The smallest path MTU of the open mesh connections to a site.");
