"""Shows what happens in a run, event by event, and what a second run does not compute again."""

from __future__ import annotations

from graphengine import Event, Kind, load, run


def show(event: Event) -> None:
    """Write one line for each event that says something."""
    match event.kind:
        case Kind.PROGRESS:
            print(f"  {event.node}: step {event.step} of {event.total}")
        case Kind.NODE_FINISHED:
            print(f"  {event.node}: {event.reuse}")
        case Kind.NODE_FAILED | Kind.RUN_FAILED:
            print(f"  {event.node or 'the run'} failed: {event.error}")


def main() -> None:
    """Run one workflow with two seeds."""
    graph = load("text_to_image")
    for seed in (1, 2):
        print(f"seed {seed}")
        result = run(graph, inputs={"seed": seed, "steps": 4}, listeners=[show], progress=False)
        print(f"  {result.elapsed:.2f} s, of which {sum(result.seconds.values()):.2f} s in nodes")


if __name__ == "__main__":
    main()
