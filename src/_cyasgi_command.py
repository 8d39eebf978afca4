"""The script ``cyasgi``: outside the package, so that what goes wrong while that is imported is told in one line."""

import sys


def main() -> int:
    """Run the command and return its exit code."""
    try:
        from cyasgi.cli import script as command

        return command()
    except KeyboardInterrupt:
        return 130
    except ImportError as error:
        if not str(error).startswith("CYASGI_BACKEND="):
            raise
        print(f"cyasgi: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
