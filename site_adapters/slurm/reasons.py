"""Why a Slurm job waits: every reason of `man squeue` (JOB REASON CODES) in our words, with what a person can do."""

from __future__ import annotations

import re

from site_adapters.states import Reason, Why

_R = Reason
_WAIT = ""
_ASK = "Ask the centre."
_LESS = "Ask for less, or wait until some of your jobs have ended."

REASONS: dict[str, Why] = {
    "None": Why(_R.NONE, "The scheduler has not looked at it yet."),
    "Priority": Why(_R.PRIORITY, "Jobs with higher priority are ahead of it."),
    "Resources": Why(_R.RESOURCES, "It is next; its cores are not free yet."),
    "Dependency": Why(_R.DEPENDENCY, "It waits for another job."),
    "DependencyNeverSatisfied": Why(_R.WILL_NOT_START, "The job it waits for did not end as asked.", "Cancel it."),
    "BeginTime": Why(_R.BEGIN_TIME, "Its start time has not come."),
    "JobHeldUser": Why(_R.HELD_BY_USER, "It is held.", "Release it."),
    "JobHeldAdmin": Why(_R.HELD_BY_CENTRE, "The centre holds it.", _ASK),
    "JobArrayTaskLimit": Why(_R.LIMIT, "As many tasks of its array run as you allowed at a time."),
    "Reservation": Why(_R.RESERVATION, "Its reservation has not begun."),
    "ReservationDeleted": Why(_R.WILL_NOT_START, "Its reservation is gone.", "Submit it without the reservation."),
    "InvalidReservation": Why(_R.WILL_NOT_START, "There is no such reservation.", "Submit it without it."),
    "Licenses": Why(_R.RESOURCES, "The software licences it needs are in use."),
    "NodeDown": Why(_R.RESOURCES, "A node it needs is down.", _WAIT),
    "ReqNodeNotAvail": Why(
        _R.RESOURCES, "A node it needs is not available: down, drained or set aside for maintenance."
    ),
    "PartitionDown": Why(_R.LIMIT, "Its queue is down.", "Choose another queue."),
    "PartitionInactive": Why(_R.LIMIT, "Its queue is closed.", "Choose another queue."),
    "PartitionNodeLimit": Why(_R.WILL_NOT_START, "It asks for more nodes than its queue has.", "Ask for fewer nodes."),
    "PartitionTimeLimit": Why(_R.WILL_NOT_START, "It asks for more time than its queue gives.", "Ask for less time."),
    "PartitionConfig": Why(_R.WILL_NOT_START, "It asks for more than its queue can ever give.", "Ask for less."),
    "AccountNotAllowed": Why(_R.WILL_NOT_START, "Its account may not use this queue.", "Choose another queue."),
    "QOSNotAllowed": Why(_R.WILL_NOT_START, "Its QOS may not use this queue.", "Choose another QOS."),
    "BadConstraints": Why(_R.WILL_NOT_START, "No node has what it asks for.", "Relax the constraints."),
    "InvalidAccount": Why(_R.WILL_NOT_START, "Its account is not valid any more.", _ASK),
    "InvalidQOS": Why(_R.WILL_NOT_START, "Its QOS is not valid any more.", "Choose another QOS."),
    "QOSUsageThreshold": Why(_R.LIMIT, "Its QOS wants a better fair share than you have now."),
    "QOSResourceLimit": Why(_R.LIMIT, "A limit of its QOS is reached.", _LESS),
    "QOSJobLimit": Why(_R.LIMIT, "As many jobs run in its QOS as are allowed.", _LESS),
    "QOSTimeLimit": Why(_R.LIMIT, "The time of its QOS is used up.", _LESS),
    "AssociationJobLimit": Why(_R.LIMIT, "As many of your account's jobs run as are allowed.", _LESS),
    "AssociationResourceLimit": Why(_R.LIMIT, "Your account has a limit that is reached.", _LESS),
    "AssociationTimeLimit": Why(_R.LIMIT, "Your account's time is used up.", _ASK),
    "AssocGrpCPUMinutesLimit": Why(_R.LIMIT, "Your account's core-minutes at the centre are used up.", _ASK),
    "DeadLine": Why(_R.DEADLINE, "It cannot end before its deadline."),
    "Prolog": Why(_R.RESOURCES, "Its nodes are being prepared."),
    "Cleaning": Why(_R.RESOURCES, "Its last run is being cleaned up."),
    "FrontEndDown": Why(_R.RESOURCES, "No front-end node is available.", _WAIT),
    "BlockMaxError": Why(_R.RESOURCES, "Its nodes have too many errors.", _ASK),
    "BlockFreeAction": Why(_R.RESOURCES, "Its nodes are being freed."),
    "SchedDefer": Why(_R.PRIORITY, "The scheduler has put it off for a moment."),
    "SystemFailure": Why(_R.NODE_FAIL, "The scheduler had a failure.", _ASK),
    "JobLaunchFailure": Why(_R.LAUNCH_FAILED, "It could not be started.", _ASK),
    "NonZeroExitCode": Why(_R.NONZERO_EXIT, "It ended with an error."),
    "RaisedSignal": Why(_R.USER_SIGNAL, "It was ended by a signal."),
    "TimeLimit": Why(_R.TIME_LIMIT, "It ran to its time limit."),
    "InactiveLimit": Why(_R.LIMIT, "It was inactive for too long."),
    "OutOfMemory": Why(_R.OUT_OF_MEMORY, "It used more memory than it had.", "Ask for more memory."),
    "LaunchFailedRequeuedHeld": Why(_R.HELD_BY_CENTRE, "It could not be started and is held.", _ASK),
    "launch_failed_requeued_held": Why(_R.HELD_BY_CENTRE, "It could not be started and is held.", _ASK),
    "JobHoldMaxRequeue": Why(_R.HELD_BY_CENTRE, "It was requeued too often and is held.", _ASK),
    "SpecialExit": Why(_R.HELD_BY_CENTRE, "It ended in a special state and is held.", _ASK),
    "BurstBufferResources": Why(_R.RESOURCES, "Its burst buffer has no room."),
    "BurstBufferStageIn": Why(_R.RESOURCES, "Its data is on the way to the burst buffer."),
    "BurstBufferOperation": Why(_R.RESOURCES, "Its burst buffer had a failure.", _ASK),
    "PowerNotAvail": Why(_R.RESOURCES, "There is not enough power for it now."),
    "PowerReserved": Why(_R.RESOURCES, "The power it needs is set aside."),
    "MaxMemPerLimit": Why(_R.WILL_NOT_START, "It asks for more memory per node or core than allowed.", "Ask for less."),
    "MaxRequeue": Why(_R.LIMIT, "It was requeued as often as allowed."),
    "NodesInUse": Why(_R.RESOURCES, "The nodes it needs are in use."),
    "AllNodesDown": Why(_R.RESOURCES, "Every node of its queue is down.", "Choose another queue."),
    "AccountingPolicy": Why(_R.LIMIT, "A limit of your account or of its QOS is reached.", _LESS),
    "FedJobLock": Why(_R.OTHER, "Another cluster of the federation decides on it."),
    "NetworkNotAvail": Why(_R.RESOURCES, "The network resources it needs are in use."),
    "ReservationMaxStart": Why(_R.RESERVATION, "Its reservation takes no new jobs now."),
    "JobTaskLimit": Why(_R.LIMIT, "As many of its tasks run as allowed."),
}

# Limits have dozens of names that are put together from parts: who : what.
_LIMIT = re.compile(r"(?P<who>QOS|Assoc)(?P<how>Grp|Max|Min)(?P<what>\w*)")
_NEVER = re.compile(r"MaxWall|Max\w+PerJob|MinCpus|MinGRES|MinMemory|Min\w*PerJob")


def reason_of(native: str) -> Why:
    """The reason behind Slurm's word, with or without a text behind it; a word we do not know is kept and told."""
    word = re.split(r"[ ,(:]", native.strip(), maxsplit=1)[0]
    known = REASONS.get(word)
    if known is not None:
        return known
    if re.fullmatch(r"Max\w+PerAccount", word):
        return Why(_R.LIMIT, f"Your account's share of its QOS is in use ({word}).", _LESS)
    match = _LIMIT.fullmatch(word)
    if match is not None:
        whose = "its QOS" if match["who"] == "QOS" else "your account"
        if _NEVER.search(word):
            return Why(_R.WILL_NOT_START, f"It asks for more than {whose} allows one job ({word}).", "Ask for less.")
        return Why(_R.LIMIT, f"A limit of {whose} is reached ({word}).", _LESS)
    return Why(_R.OTHER, f"The scheduler says: {native}." if native else "The scheduler gives no reason.")
