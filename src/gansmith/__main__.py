"""`gansmith` and `python -m gansmith`: runs a command and turns what went wrong into one sentence and an exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

MEMORY = ("out of memory", "can't allocate memory")  # how the devices say it


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 an error told in one sentence, 2 wrong usage, 130 interrupted (and saved)."""
    from .errors import GansmithError

    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # damaged pictures are named by us, once
    try:
        from .cli import app

        words = list(sys.argv[1:] if arguments is None else arguments)
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
        return 0
    except KeyboardInterrupt:
        return 130
    except GansmithError as error:
        print(f"gansmith: {' '.join(line.strip() for line in str(error).splitlines())}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # the reader of our output went away: say no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"gansmith: {where}{error.strerror or error}.", file=sys.stderr)
        return 1
    except Exception as error:
        if usage := _usage(error):
            print(f"gansmith: {usage}", file=sys.stderr)
            return 2
        if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in MEMORY):
            reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
            hint = "try --set train.micro=2, a smaller train.batch or --size"
            print(f"gansmith: out of memory{reason}; {hint}.", file=sys.stderr)
            return 1
        raise


def _usage(error: Exception) -> str:
    """What a command-line mistake says, on one line."""
    from cyclopts import CycloptsError

    return " ".join(str(error).split()) if isinstance(error, CycloptsError) else ""


if __name__ == "__main__":
    sys.exit(main())
