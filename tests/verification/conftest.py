"""The tiny artifacts of the runtimes' tests are used here too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "runtimes"))
