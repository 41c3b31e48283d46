"""What knows the centres: five interfaces through which every one docks, dialects of schedulers, transports.

    interfaces.py types.py states.py errors.py    what a centre can be asked, in words that all centres share
    command.py script.py directives.py indices.py  commands as data; job scripts; `#SBATCH` lines; array indices
    config.py registry.py                          a site file, and the docked centre that it becomes
    transport/                                     runs commands: on this machine, over SSH
    login_node/                                    what every centre shares that is reached by logging in
    local/ slurm/                                  one folder for each scheduler, with the same file names

Start at `registry.build(config, keys=…)`. Nothing here knows the gateway, the database or the accounting.
"""
