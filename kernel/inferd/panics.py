"""How foreign code fails."""


def is_failure(error: BaseException) -> bool:
    """Whether this is how foreign code fails: an exception, or a panic of Rust code.

    PyO3 raises panics as a `BaseException`, of a class that each extension has for itself, so that `except Exception`
    lets them pass (https://docs.rs/pyo3/latest/pyo3/panic/struct.PanicException.html).
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def words_of(error: BaseException) -> str:
    """What an exception says, for people: of what the system refused its words and the file, without "[Errno 2]".

    The name of its class where it says nothing.
    """
    if isinstance(error, OSError) and error.strerror:
        files = " to ".join(repr(file) for file in (error.filename, error.filename2) if file is not None)
        return f"{error.strerror}: {files}" if files else str(error.strerror)
    return str(error) or type(error).__name__
