"""One-off jobs of the twin: secrets, port check, first version, backup and restore.

Backup and restore need boto3 and psycopg2 and run in the tracking image; the others need the standard library only.
"""
