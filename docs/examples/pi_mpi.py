"""π by the midpoint rule, shared among MPI ranks (or, without MPI, among the processes of one pool)."""

import multiprocessing
import time

STEPS = 20_000_000


def part(rank: int, size: int) -> float:
    """This rank's share of the sum of 4 / (1 + x²)."""
    width = 1.0 / STEPS
    return width * sum(4.0 / (1.0 + (width * (i + 0.5)) ** 2) for i in range(rank, STEPS, size))


def main() -> None:
    began = time.perf_counter()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        with multiprocessing.Pool(2) as pool:
            total = sum(pool.starmap(part, [(rank, 2) for rank in range(2)]))
        print(f"2 processes: pi = {total:.12f} in {time.perf_counter() - began:.1f} s")
        return
    world = MPI.COMM_WORLD
    print(f"rank {world.rank} of {world.size} on {MPI.Get_processor_name()}", flush=True)
    total = world.reduce(part(world.rank, world.size), op=MPI.SUM, root=0)
    if world.rank == 0:
        print(f"{world.size} ranks: pi = {total:.12f} in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
