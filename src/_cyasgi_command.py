"""The script ``cyasgi``: outside the package, so that what goes wrong while that is imported is told in one line."""

import os
import sys

#: Environment variable by which a shell asks for names of applications: it has the directory to look in.
APPLICATIONS = "_CYASGI_APPLICATIONS"


def main() -> int:
    """Run the command and return its exit code."""
    if APPLICATIONS in os.environ:
        return tell_applications(os.environ[APPLICATIONS], sys.argv[1:])
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


def tell_applications(directory: str, words: list[str]) -> int:
    """Write the names of applications that an incomplete word may become, and return the exit code.

    This runs at the press of a key, so the package is not imported: that takes several times as long.
    """
    import runpy
    from importlib.util import find_spec

    spec = find_spec("cyasgi")
    if spec is None or not spec.submodule_search_locations or len(words) != 1:
        return 1
    sys.argv[1:] = [directory or ".", *words]
    path = os.path.join(spec.submodule_search_locations[0], "cli", "completion", "applications.py")
    runpy.run_path(path, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
