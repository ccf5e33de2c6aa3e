"""`python -m orlop`, and what a shim starts when no shell is there: finds its packages without `site`."""

import sys

if __name__ == "__main__":
    if sys.flags.no_site:
        here = __file__.rpartition("/")[0].rpartition("/")[0]
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        prefix = sys.executable.rpartition("/")[0].rpartition("/")[0]
        sys.path[:0] = [here]
        sys.path.append(f"{prefix}/lib/{version}/site-packages")
    from orlop.cli.begin import orlop

    orlop()
