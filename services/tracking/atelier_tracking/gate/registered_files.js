// Checks, by lookups in MLflow, whether a registered version needs the files that a request would change.
import fs from 'fs';
import requestPath from 'request_path.js';

const API = '/lookup/api/2.0/mlflow/';
const BUCKET = '@{bucket}';
const PAGE = 200;  // with more versions, a run counts as needed

async function areNeeded(r, path, method) {
    const targets = await changedPaths(r, path, method);
    if (!targets) {
        return true;
    }
    for (let i = 0; i < targets.length; i++) {
        if (await isNeeded(r, targets[i])) {
            return true;
        }
    }
    return false;
}

// Paths below the artifact root that a request would change; null if they cannot be determined.
// `prefix`: it may change all paths that begin with this one, because S3 deletes by prefix.
async function changedPaths(r, path, method) {
    let match = path.match(/\/logged-models\/([^/]+)$/);
    if (match) {
        return [{path: 'models/' + match[1], prefix: true}];
    }
    match = path.match(/\/mlflow-artifacts\/(artifacts|mpu\/\w+)\/(.+)$/);
    if (match) {
        // the name of the file is in the body of a multipart upload, so the whole folder counts
        return requestPath.isPlain(match[2]) ? [{path: match[2], prefix: match[1] != 'artifacts' || method == 'DELETE'}] : null;
    }
    const requestUri = r.variables.request_uri;
    const run = requestPath.argument(requestUri, 'run_uuid');
    const file = requestPath.argument(requestUri, 'path');
    if (!run || !file || !/^[0-9a-f]{32}$/.test(run) || !requestPath.isPlain(file)) {
        return null;
    }
    const response = await lookUp(r, 'runs/get?run_id=' + run);
    const root = response && artifactPath(response.run.info.artifact_uri);
    // MLflow may also write to the default folder of the run
    return root ? [{path: root + '/' + file}, {path: response.run.info.experiment_id + '/' + run + '/artifacts/' + file}] : null;
}

async function lookUp(r, query) {
    const response = await r.subrequest(API + query.split('?')[0], {args: query.split('?')[1] || ''});
    if (response.status == 404) {
        return null;
    }
    if (response.status != 200) {
        throw new Error('lookup failed');
    }
    return JSON.parse(response.responseText || response.responseBody);
}

// Path of a canonical URI below the artifact root; '' for other URIs.
function artifactPath(uri) {
    const match = (uri || '').match(/^mlflow-artifacts:\/([^\/].*)$/) || (uri || '').match(/^s3:\/\/([^\/]+)\/(.+)$/);
    if (!match || (match.length > 2 && match[1] != BUCKET)) {
        return '';
    }
    const path = match[match.length - 1];
    return requestPath.isPlain(path) ? path : '';
}

async function isNeeded(r, target) {
    const parts = target.path.split('/');
    const ids = requestPath.ids(target.path);
    if (!ids.length) {
        return true;  // not below a run, model or trace
    }
    // versions whose source is not canonical, read when the server started
    const noncanonical = JSON.parse(fs.readFileSync('@{run}/state/noncanonical_sources.json'));
    if (ids.some((id) => noncanonical.ids.includes(id.slice(-32))) || noncanonical.folders.some((folder) => overlaps(target, folder))) {
        return true;
    }
    for (let i = 0; i < ids.length; i++) {
        const filters = ["source_path LIKE '%" + ids[i] + "%'"];
        let run = ids[i];
        if (run.startsWith('m-')) {
            const model = await lookUp(r, 'logged-models/' + run);
            run = model && model.model.info.source_run_id;
        }
        if (run && /^[0-9a-f]{32}$/.test(run)) {
            filters.push("run_id = '" + run + "'");
        }
        for (let j = 0; j < filters.length; j++) {
            if (await anyVersionNeeds(r, filters[j], target, parts)) {
                return true;
            }
        }
    }
    return false;
}

async function anyVersionNeeds(r, filter, target, parts) {
    const response = await lookUp(r, 'model-versions/search?max_results=' + PAGE + '&filter=' + encodeURIComponent(filter));
    return !response || !!response.next_page_token || (response.model_versions || []).some((version) => versionNeeds(version, target, parts));
}

function versionNeeds(version, target, parts) {
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
    if (run && requestPath.isPlain(run[2])) {
        const at = target.path.indexOf(run[1] + '/artifacts/');
        return at < 0 ? parts.includes(run[1])
            : overlaps({path: target.path.slice(at + run[1].length + 11), prefix: target.prefix}, run[2]);
    }
    const folder = source.startsWith('mlflow-artifacts:') && artifactPath(source);
    return folder ? overlaps(target, folder) : true;  // not canonical: counts as needed
}

function overlaps(target, folder) {
    const path = target.path;
    return !folder || path == folder || path.startsWith(folder + '/') || folder.startsWith(path + '/')
        || (!!target.prefix && folder.startsWith(path));
}

export default {areNeeded};
