"""``python -m tp_vgg`` runs the command line."""

from tp_vgg.cli import main

main()
