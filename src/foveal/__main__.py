"""``python -m foveal``, for torchrun and for machines without the script."""

import sys

from .cli import main

sys.exit(main())
