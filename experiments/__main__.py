"""python -m experiments: lists the experiments."""

from experiments.listing import listed

if __name__ == "__main__":
    found = listed()
    width = max(map(len, found))
    for name, about in found.items():
        print(f"python -m experiments.{name:<{width}}  {about}")
    print(
        "\n--help lists an experiment's flags; --sweep, --dry_run and more are in all but report: WORKSPACE.md, How to launch"
    )
