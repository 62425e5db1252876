// Whether a registered version needs the files that a request would change. Asks MLflow which versions there are.
import fs from 'fs';
import paths from 'request_path.js';

const API = '/lookup/api/2.0/mlflow/';
const BUCKET = '@{bucket}';
const PAGE = 200;  // a run of more versions is taken as needed

async function frozen(r, path, method) {
    const targets = await touched(r, path, method);
    if (!targets) {
        return true;
    }
    for (let i = 0; i < targets.length; i++) {
        if (await needed(r, targets[i])) {
            return true;
        }
    }
    return false;
}

// What a request would change below the artifact root; null where that cannot be said.
// `whole`: it may change everything below the path, and beside it where S3 compares the beginnings of names.
async function touched(r, path, method) {
    let match = path.match(/\/logged-models\/([^/]+)$/);
    if (match) {
        return [{path: 'models/' + match[1], whole: true}];
    }
    match = path.match(/\/mlflow-artifacts\/(artifacts|mpu\/\w+)\/(.+)$/);
    if (match) {
        // the name of a multipart upload is in its body: the whole folder counts
        return paths.plain(match[2]) ? [{path: match[2], whole: match[1] != 'artifacts' || method == 'DELETE'}] : null;
    }
    const line = r.variables.request_uri;
    const run = paths.argument(line, 'run_uuid');
    const file = paths.argument(line, 'path');
    if (!run || !file || !/^[0-9a-f]{32}$/.test(run) || !paths.plain(file)) {
        return null;
    }
    const found = await look(r, 'runs/get?run_id=' + run);
    const root = found && below(found.run.info.artifact_uri);
    // MLflow itself writes to the run's default folder when that lies under its own root
    return root ? [{path: root + '/' + file}, {path: found.run.info.experiment_id + '/' + run + '/artifacts/' + file}] : null;
}

async function look(r, query) {
    const answer = await r.subrequest(API + query.split('?')[0], {args: query.split('?')[1] || ''});
    if (answer.status == 404) {
        return null;
    }
    if (answer.status != 200) {
        throw new Error('lookup failed');
    }
    return JSON.parse(answer.responseText || answer.responseBody);
}

// A canonical address as a path below the artifact root; '' for any other.
function below(uri) {
    const match = (uri || '').match(/^mlflow-artifacts:\/([^\/].*)$/) || (uri || '').match(/^s3:\/\/([^\/]+)\/(.+)$/);
    if (!match || (match.length > 2 && match[1] != BUCKET)) {
        return '';
    }
    const path = match[match.length - 1];
    return paths.plain(path) ? path : '';
}

async function needed(r, target) {
    const parts = target.path.split('/');
    const ids = paths.ids(target.path);
    if (!ids.length) {
        return true;  // above all runs, models and traces, or beside them
    }
    // versions from before sources had one spelling, read when the server started
    const odd = JSON.parse(fs.readFileSync('@{run}/state/odd_sources.json'));
    if (ids.some((id) => odd.ids.includes(id.slice(-32))) || odd.folders.some((folder) => overlap(target, folder))) {
        return true;
    }
    for (let i = 0; i < ids.length; i++) {
        const filters = ["source_path LIKE '%" + ids[i] + "%'"];
        let run = ids[i];
        if (run.startsWith('m-')) {
            const model = await look(r, 'logged-models/' + run);
            run = model && model.model.info.source_run_id;
        }
        if (run && /^[0-9a-f]{32}$/.test(run)) {
            filters.push("run_id = '" + run + "'");
        }
        for (let j = 0; j < filters.length; j++) {
            if (await searched(r, filters[j], target, parts)) {
                return true;
            }
        }
    }
    return false;
}

async function searched(r, filter, target, parts) {
    const found = await look(r, 'model-versions/search?max_results=' + PAGE + '&filter=' + encodeURIComponent(filter));
    return !found || !!found.next_page_token || (found.model_versions || []).some((version) => holds(version, target, parts));
}

function holds(version, target, parts) {
    const source = version.source || '';
    if (source == 'dummy-source' || source == 'prompt-template') {
        return false;  // a prompt has no files
    }
    if (version.model_id && parts.includes(version.model_id)) {
        return true;
    }
    const model = source.match(/^models:\/(m-[0-9a-f]{32})$/);
    if (model) {
        return parts.includes(model[1]);
    }
    const run = source.match(/^runs:\/([0-9a-f]{32})\/(.+)$/);
    if (run && paths.plain(run[2])) {
        const at = target.path.indexOf(run[1] + '/artifacts/');
        return at < 0 ? parts.includes(run[1])
            : overlap({path: target.path.slice(at + run[1].length + 11), whole: target.whole}, run[2]);
    }
    const folder = source.startsWith('mlflow-artifacts:') && below(source);
    return folder ? overlap(target, folder) : true;  // a spelling that is not canonical: needed
}

function overlap(target, folder) {
    const path = target.path;
    return !folder || path == folder || path.startsWith(folder + '/') || folder.startsWith(path + '/')
        || (!!target.whole && folder.startsWith(path));
}

export default {frozen};
