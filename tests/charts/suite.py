"""A few lines of test runner: functions marked with @case run in the order they are written, and the end says
`N passed, N failed`."""
import sys
import time
import traceback
from collections.abc import Callable

CASES: list[tuple[str, Callable[[], None]]] = []


def case(name: str) -> Callable:
    def mark(function: Callable[[], None]) -> Callable[[], None]:
        CASES.append((name, function))
        return function

    return mark


def nothing(problems: list[str]) -> None:
    """Asserts that a list of problems is empty, and shows it."""
    assert not problems, "\n  - " + "\n  - ".join(problems)


def run() -> int:
    wanted = sys.argv[1:]
    failed = passed = 0
    for name, function in CASES:
        if wanted and not any(word in name for word in wanted):
            continue
        started = time.monotonic()
        try:
            function()
        except Exception as error:
            failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAILED {name}: {error} ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})")
        else:
            passed += 1
            print(f"ok     {name} ({time.monotonic() - started:.1f} s)")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0
