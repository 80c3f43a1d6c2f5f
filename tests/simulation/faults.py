"""What goes wrong, one function each: named in `weather.FAULTS`, done to a world, and undone after a while.

Room: pulling plugs. Where something durable is lost, the truth is told at once what can still come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .edges import EdgeNode
    from .editors import Editor
    from .world import World

__all__ = ["do_fault"]


def do_fault(world: World, kind: str) -> None:
    world.note("world", f"fault: {kind}")
    {
        "crash": _crash,
        "power_cut": _power_cut,
        "cut": _cut,
        "leader_cut": _leader_cut,
        "leader_crash": _leader_crash,
        "handover": _handover,
        "two_leaders": _two_leaders,
        "no_leader": _no_leader,
        "disk_lost": _disk_lost,
        "disk_restored": _disk_restored,
        "disk_copied": _disk_copied,
        "disk_full": _disk_full,
        "log_tail_lost": _log_tail_lost,
        "log_lost": _log_lost,
        "editor_gone": _editor_gone,
    }[kind](world)


def _restart_later(world: World, node: EdgeNode) -> None:
    run = node.run
    world.in_chaos(world.rng.choice((20, 500, 4_000)), lambda: node.start() if node.run == run else None)


def _crash(world: World) -> None:
    node = world.rng.choice(world.edges)
    if node.edge is not None:
        node.kill()
        _restart_later(world, node)


def _power_cut(world: World) -> None:
    """The edge and the tabs at it are gone: what it had acknowledged is on its disk alone."""
    node = world.rng.choice(world.edges)
    if node.edge is not None:
        there = [editor for editor in world.editors if editor.alive and editor.wants is node]
        node.kill()
        for editor in there:
            _leave(world, editor)
        _restart_later(world, node)


def _cut(world: World) -> None:
    node = world.rng.choice(world.edges)
    out, inward = world.rng.choice(((True, True), (True, True), (True, False), (False, True)))
    node.uplink.cut(out, inward)
    world.note(node.name, f"cut{' out' if out else ''}{' in' if inward else ''}")
    world.in_chaos(world.rng.choice((100, 1_000, 6_000)), node.uplink.heal)


def _leader_cut(world: World) -> None:
    leader = world.rng.choice(world.leaders)
    out, inward = world.rng.choice(((True, True), (True, False), (False, True)))
    leader.uplink.cut(out, inward)
    world.note(leader.name, f"cut{' out' if out else ''}{' in' if inward else ''}")
    world.in_chaos(world.rng.choice((100, 1_000, 6_000)), leader.uplink.heal)


def _leader_crash(world: World) -> None:
    leader = world.rng.choice(world.leaders)
    if leader.up:
        leader.kill()
        world.in_chaos(world.rng.choice((50, 2_000)), lambda: None if leader.up else leader.start())


def _handover(world: World) -> None:
    world.lease(world.rng.randrange(world.shard_count), {world.rng.choice(world.leaders).name})


def _two_leaders(world: World) -> None:
    shard = world.rng.randrange(world.shard_count)
    world.lease(shard, {leader.name for leader in world.leaders})
    one = world.rng.choice(world.leaders).name
    world.in_chaos(world.rng.choice((500, 4_000)), lambda: world.lease(shard, {one}))


def _no_leader(world: World) -> None:
    shard = world.rng.randrange(world.shard_count)
    world.lease(shard, set())
    one = world.rng.choice(world.leaders).name
    world.in_chaos(world.rng.choice((500, 6_000)), lambda: world.lease(shard, {one}))


def _disk_lost(world: World) -> None:
    node = world.rng.choice(world.edges)
    node.kill()
    node.disk.put(world.empty_image())
    world.note(node.name, "disk lost")
    world.durable_lost()
    _restart_later(world, node)


def _disk_restored(world: World) -> None:
    """A backup from earlier in this world."""
    node = world.rng.choice(world.edges)
    images = world.images[node.name]
    if images:
        node.kill()
        node.disk.put(world.rng.choice(images))
        world.note(node.name, "disk restored from a backup")
        world.durable_lost()
        _restart_later(world, node)


def _disk_copied(world: World) -> None:
    """A cloned machine: another edge's disk, as it is or was."""
    node, other = world.rng.sample(world.edges, 2)
    images = [*world.images[other.name], other.disk.image]
    node.kill()
    node.disk.put(world.rng.choice(images))
    world.note(node.name, f"has a copy of the disk of {other.name}")
    world.durable_lost()
    _restart_later(world, node)


def _disk_full(world: World) -> None:
    node = world.rng.choice(world.edges)
    node.disk.full = True

    def freed() -> None:
        node.disk.full = False

    world.in_chaos(world.rng.choice((200, 3_000)), freed)


def _log_tail_lost(world: World) -> None:
    """The server lost power: it comes back with less than it had acknowledged."""
    count = world.rng.randint(1, 12)
    world.log.lose_tail(count)
    world.note("log", f"lost its tail of {count}: {world.log.last_seq} left")
    world.truth.log_replaced()
    world.durable_lost()
    world.drop_links()


def _log_lost(world: World) -> None:
    """Somebody deleted the stream, or its disk is gone; connections may live on."""
    world.log.lose_everything(with_snapshots=world.rng.random() < 0.5)
    world.note("log", "lost")
    world.truth.log_replaced()
    world.durable_lost()
    if world.rng.random() < 0.5:
        world.drop_links()


def _editor_gone(world: World) -> None:
    """A tab is closed for ever, and somebody else comes."""
    alive = [editor for editor in world.editors if editor.alive]
    _leave(world, world.rng.choice(alive))


def _leave(world: World, editor: Editor) -> None:
    editor.leave()
    world.note(editor.name, "leaves for ever")
    world.look_what_is_left()
    world.new_editor(editor.doc)
