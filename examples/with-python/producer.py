from tasks import app

# A task of the Node worker, by name.
title = app.send_task('pages.title', ['<title>Celery for Node</title>'], {'max_length': 6}, queue='node')
print(title.get(timeout=10))
