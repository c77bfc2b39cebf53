"""python -m service: refuses a Python or an install that cannot run it, and hands over.

What is imported before the version is known to be right must parse on any Python.
"""

import sys

SUPPORTED = (3, 11), (3, 13)


def refuse_other_pythons(version):
    # type: (tuple[int, ...]) -> None
    """End the process with a clear message unless this Python is supported."""
    oldest, newest = SUPPORTED
    if not oldest <= version <= newest:
        sys.exit(
            "error: this service runs on Python {}.{} to {}.{}, and this is Python {}.{}; "
            "uv run --python {}.{} python -m service takes the right one".format(
                *(oldest + newest + version + newest)
            )
        )


if __name__ == "__main__":
    refuse_other_pythons(sys.version_info[:2])

    from service.embedding.runtime_package import runtime_package
    from service.errors import ModelLoadError

    try:
        runtime_package()
    except ModelLoadError as error:
        sys.exit("error: " + str(error))

    from service.command_line import main

    sys.exit(main(sys.argv[1:]))
