"""How foreign code fails."""


def is_failure(error: BaseException) -> bool:
    """Whether this is how foreign code fails: an exception, or a panic of Rust code.

    PyO3 raises panics as a `BaseException`, of a class that each extension has for itself, so that `except Exception`
    lets them pass (https://docs.rs/pyo3/latest/pyo3/panic/struct.PanicException.html).
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
