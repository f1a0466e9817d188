"""Online learning beside serving: feedback teaches a shadow, the registry's aliases decide.

    routes      POST /v1/feedback, GET /v1/feedback/status
    desk        which line a feedback belongs to; one learner a line, started by the first feedback
    spool       feedback that waits, in files: any process puts, the learner's takes
    learner     its thread: batches, updates, canary runs, what follows from them
    shadow      a copy of base and adapter that learns, and is never served
    source      what a learner begins from, and whether it may go on after an alias moved
    publishing  steps of a learner as transactions of the registry

The engine is never touched: what is served changes only through an alias of the registry, which
the shelf follows as it follows a promotion.
"""
