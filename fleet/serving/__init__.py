"""Promoted models behind an OpenAI-compatible API.

    settings, tokens        what a server is told; secrets come from files or the environment
    catalog, traffic        the registry as it stands; which id a name means for a request (pure)
    loading, shelf          a model's folder into memory aside, then onto the engine between steps
    server                  base, engine loop, shelf and registry watch of one process
    schemas, answers, ...   the API: what is asked, how it is answered, how it is told
    guard, app              limits, tokens and deadlines around the routes
    local, deployment       one process under uvicorn; replicas under Ray Serve

Only `deployment` imports Ray. Nothing is re-exported here.
"""
