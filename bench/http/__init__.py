"""HTTP servers against one another: run.py measures, plain.py and fastapi_json.py are served."""
