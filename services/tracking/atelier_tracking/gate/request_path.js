// Parses path and query of a request as MLflow does. MLflow decodes paths repeatedly, strips a trailing ? and ;, a leading file:
// and white space; so only the canonical form of a path is accepted, which this does not change.

// Escapes of characters that need none, and of those that are never allowed: / ? # ; \ and control characters.
const ESCAPES = /%(?:2[def3]|3[0-9bf]|4[1-9a-f]|5[0-9acf]|6[1-9a-f]|7[0-9aef]|[01][0-9a-f])/i;
const PATH_ARGUMENTS = ['path', 'artifact_path', 'artifact_file_path', 'artifact_directory_path'];

// Whether this is a canonical path of the artifact store.
function isPlain(path) {
    return !/[\\#;?]|%[0-9a-f]{2}|\/\/|^\/|[\x00-\x1f\x7f]|^[^\/]*:/i.test(path)
        && !path.split('/').some((part) => /^\.*$/.test(part) || part != part.trim());
}

// Whether nginx, MLflow and the gate parse the same path from a request URI.
function isCanonical(requestUri, uri) {
    const raw = requestUri.split('?')[0];
    if (!/^\/[!-~]*$/.test(requestUri) || /[#\\;]|\/\//.test(raw) || requestUri.indexOf('#') >= 0 || ESCAPES.test(raw)) {
        return false;
    }
    let decoded = '';
    try {
        decoded = decodeURIComponent(raw);
    } catch (e) {
        return false;
    }
    const parts = decoded.slice(1).split('/');
    return decoded == uri && !/%[0-9a-f]{2}|[\x00-\x1f\x7f]/i.test(decoded)
        && !parts.some((part) => /^\.+$/.test(part) || part != part.trim())
        && PATH_ARGUMENTS.every((name) => {
            const values = argumentValues(requestUri, name);
            return values && (!values.length || (values.length == 1 && (values[0] == '' || isPlain(values[0]))));
        });
}

// All values of an argument, decoded; null if one cannot be decoded.
function argumentValues(requestUri, name) {
    const at = requestUri.indexOf('?');
    const pairs = at < 0 ? [] : requestUri.slice(at + 1).split('&');
    const values = [];
    for (let i = 0; i < pairs.length; i++) {
        const equals = pairs[i].indexOf('=');
        const key = equals < 0 ? pairs[i] : pairs[i].slice(0, equals);
        try {
            if (decodeURIComponent(key.replace(/\+/g, ' ')) == name) {
                values.push(equals < 0 ? '' : decodeURIComponent(pairs[i].slice(equals + 1).replace(/\+/g, ' ')));
            }
        } catch (e) {
            return null;
        }
    }
    return values;
}

// The value of an argument that is given exactly once; otherwise null.
function argument(requestUri, name) {
    const values = argumentValues(requestUri, name);
    return values && values.length == 1 ? values[0] : null;
}

// The path below the artifact root in a request; null if there is none.
function artifactPath(requestUri, path) {
    const match = path.match(/\/mlflow-artifacts\/(?:artifacts|presigned|mpu\/\w+)\/(.+)$/);
    if (match) {
        return match[1];
    }
    return /\/mlflow-artifacts\/artifacts\/?$/.test(path) ? argument(requestUri, 'path') || '' : null;
}

// Ids of runs, logged models and traces in a path; all files of clients have one.
function ids(path) {
    return path.split('/').filter((part) => /^(m-|tr-)?[0-9a-f]{32}$/.test(part));
}

export default {argument, artifactPath, ids, isCanonical, isPlain};
