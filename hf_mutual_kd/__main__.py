"""`python -m hf_mutual_kd` is `hf-mutual-kd`."""

import sys

from .cli.main import main

sys.exit(main())
