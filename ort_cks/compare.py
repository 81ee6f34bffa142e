"""The command ``python -m ort_cks.compare``."""

import ort_cks
from ort_cks.callable_module import make_callable

if __name__ == "__main__":
    from ort_cks.comparison.cli import main

    raise SystemExit(main())

make_callable(__name__, ort_cks.compare)
