"""``python -m tp_vgg``."""

from tp_vgg.cli import main

main()
