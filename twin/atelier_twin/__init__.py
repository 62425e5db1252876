"""One-shot jobs of the local twin: fresh secrets, free ports, a first version; backup and restore.

The latter two need boto3 and psycopg2, and run in the tracking image; the others need the standard library alone.
"""
