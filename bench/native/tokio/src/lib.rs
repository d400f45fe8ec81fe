//! The peer of bench/c/native.c: a Tokio task that ends at once, awaited by Python.

use pyo3::prelude::*;

#[pyfunction]
fn task(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    pyo3_async_runtimes::tokio::future_into_py(py, async { Ok(()) })
}

#[pymodule]
fn bench_tokio(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(task, module)?)
}
