"""The bench: what the pair costs and how quick it is, always as a ratio to a bare gRPC stream that carries the
same messages, interleaved with it in one run on one machine. `python -m bench --help` says how to read it.

    cli.py      the command, the order of measurements, the bound in time
    plan.py     how much is measured: the whole run, the quick one
    scene.py    which processes run; child.py holds one of them, orders.py is their side
    host.py  worker.py  agents.py     programs: the dispatcher with a stamping journal; the commander, its agents
    stamping.py the journal that stamps, around any other; keeping.py what it and the bare server keep
    bare_server.py  bare_client.py    programs: the peer to compare with
    bare_options.py                   how both servers and their clients are set up alike
    load.py     one load on one side, and what it cost
    viewer.py   the application's side: Chat and Admin, in the process of the bench itself
    proxy.py    what resets connections
    tokens.py   tokens that bear the time at which they were made
    vector.py   the vector that is carried in two ways
    rows.py  table.py  tell.py        what came out, and how it is shown
    flooded.py  paced.py  crowd.py  waits.py  stops.py  calls.py  opening.py  journals.py  resuming.py
    overload.py  failover.py  memory.py  length.py  vectors.py
                one measurement each
    asker.py    program: it asks without end, for the overload

over HTTP:
    web.py      its processes and loads; web_flooded.py  web_paced.py  web_crowd.py  web_idle.py measure
    bare_web.py  bare_worker.py  browser.py     programs: the peers to compare with, and their viewers
    model.py    a language model that notices who leaves
"""
