-- Exact figures of a wrk run as one line of JSON after the word RESULT.
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        'RESULT {"requests": %d, "bytes": %d, "wall_us": %d, "p50_us": %d, "p99_us": %d, ' ..
        '"failed": %d}\n',
        summary.requests, summary.bytes, summary.duration, latency:percentile(50),
        latency:percentile(99),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
